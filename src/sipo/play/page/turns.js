// At most so many answers are asked for at once, since a browser holds few connections to one server; others queue.
export class Turns {
  constructor(most) {
    this.free = most;
    this.waiting = [];
  }

  // Runs the work when it is its turn; `signal` takes it out of the queue.
  async take(signal, work) {
    if (this.free > 0) this.free -= 1;
    else await this.wait(signal);
    try {
      signal.throwIfAborted();
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free += 1;
    }
  }

  wait(signal) {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.waiting = this.waiting.filter((each) => each !== go);
        reject(signal.reason);
      };
      const go = () => { signal.removeEventListener("abort", leave); resolve(); };
      if (signal.aborted) return reject(signal.reason);
      signal.addEventListener("abort", leave, { once: true });
      this.waiting.push(go);
    });
  }
}

export const sleep = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});
