"""A DPO soup of a finished run: asked, then written as an ordinary PEFT adapter."""

import sipo

run = sipo.open("runs/quickstart")
soup = run.at({"detail": 0.3, "plain": 0.7}, method="soups")
print(soup.generate("How do I keep bread fresh?"))
soup.save_pretrained("soup")
