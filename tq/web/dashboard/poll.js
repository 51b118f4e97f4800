// Asks again and again, every two seconds while all is well. When the server does not answer it waits longer each time;
// while nobody looks at the page, not at all.

const EVERY_MS = 2_000;
const LONGEST_MS = 30_000;

export class Poller {
  // `run` is asked each time and may fail; `failed(error, wait_ms)` and `worked()` hear what came of it. An error of
  // which `failed` returns true is final: then nothing is asked until `now`.
  constructor(run, { failed, worked }) {
    this.run = run;
    this.failed = failed;
    this.worked = worked;
    this.failures = 0;
    this.onVisible = () => (document.hidden ? this.pause() : this.now());
    document.addEventListener("visibilitychange", this.onVisible);
    this.now();
  }

  now() {
    this.pause();
    if (!this.isOver) this.ask();
  }

  pause() {
    clearTimeout(this.timer);
  }

  stop() {
    this.isOver = true;
    this.pause();
    document.removeEventListener("visibilitychange", this.onVisible);
  }

  async ask() {
    if (this.isAsking) return;
    this.isAsking = true;
    let wait = EVERY_MS;
    try {
      await this.run();
      if (this.isOver) return;
      this.failures = 0;
      this.worked();
    } catch (error) {
      if (this.isOver) return;
      wait = Math.min(LONGEST_MS, 1_000 * 2 ** this.failures);
      this.failures += 1;
      if (this.failed(error, wait)) return;
    } finally {
      this.isAsking = false;
    }
    this.pause();
    if (!document.hidden) this.timer = setTimeout(() => this.ask(), wait);
  }
}
