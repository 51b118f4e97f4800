// How many messages a second, from what queues have counted between two looks.

const OVER_MS = 10_000; // short enough to follow, long enough not to flicker
const LEAST_MS = 5_000;

export class RateMeter {
  constructor() {
    this.looks = new Map();
  }

  take(queues) {
    const now = performance.now();
    const looks = new Map();
    for (const queue of queues) {
      const before = (this.looks.get(queue.name) ?? []).filter((look) => look.made === queue.created_at);
      while (before.length > 1 && now - before[1].at > OVER_MS) before.shift();
      looks.set(queue.name, [...before, { at: now, made: queue.created_at, totals: queue.totals }]);
    }
    this.looks = looks;
  }

  // `{sent, received}` in a second, or null before there were looks enough.
  of({ name }) {
    const looks = this.looks.get(name) ?? [];
    const [first, last] = [looks[0], looks.at(-1)];
    if (!first || last.at - first.at < LEAST_MS) return null;
    const grown = (counter) =>
      Math.max(0, last.totals[counter] - first.totals[counter]) / ((last.at - first.at) / 1_000);
    return { sent: grown("sent"), received: grown("received") };
  }
}
