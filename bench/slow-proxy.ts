// A wire that is DELAY milliseconds long each way, in front of the port TARGET of this machine. Prints the
// port it listens on. Timers overshoot by a millisecond, so the last three are waited out awake.

import { type AddressInfo, createConnection, createServer, type Socket } from "node:net";

const delay = Number(process.env.DELAY);
const target = Number(process.env.TARGET);

/** What is on the way, in order of arrival: all of it takes the same time. */
const onTheWay: { due: number; to: Socket; bytes: Buffer }[] = [];
let isWaiting = false;

function deliver() {
  const now = performance.now();
  while (onTheWay[0] && onTheWay[0].due <= now) {
    const { to, bytes } = onTheWay.shift()!;
    if (!to.destroyed) to.write(bytes);
  }
  isWaiting = onTheWay.length > 0;
  if (!isWaiting) return;
  const left = onTheWay[0]!.due - now;
  if (left > 3) setTimeout(deliver, left - 3);
  else setImmediate(deliver); // what arrives meanwhile is still seen at once
}
function pass(from: Socket, to: Socket) {
  from.setNoDelay(true);
  from.on("data", (bytes: Buffer) => {
    onTheWay.push({ due: performance.now() + delay, to, bytes });
    if (isWaiting) return;
    isWaiting = true;
    deliver();
  });
  from.on("error", () => {}).on("close", () => to.destroy());
}

const entrance = createServer((near) => {
  const far = createConnection(target, "127.0.0.1");
  pass(near, far);
  pass(far, near);
});
entrance.listen(0, "127.0.0.1", () => console.log((entrance.address() as AddressInfo).port));
