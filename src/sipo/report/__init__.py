"""What a finished run shows to people: tables, pictures and texts side by side, on one self-contained page.

Every module makes one part of the page out of the tables that the stages wrote; nothing here needs the model.
"""
