// What the scenarios in JavaScript share: a check that is counted, and a client for the server.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { SQSClient } from "@aws-sdk/client-sqs";

export const { SQS_ENDPOINT, AWS_REGION } = process.env;
export const ACCOUNT = "000000000000";

let checks = 0;

export function check(isSo, message) {
  assert.ok(isSo, message);
  checks += 1;
}

export function same(found, expected, what) {
  assert.deepEqual(found, expected, `${what}: ${JSON.stringify(found)} is not ${JSON.stringify(expected)}`);
  checks += 1;
}

// The error of that class which the promise must be rejected with.
export async function raises(kind, promise) {
  const error = await promise.then(() => assert.fail(`${kind.name} was not thrown`), (error) => error);
  assert.ok(error instanceof kind, `${error.stack} is no ${kind.name}`);
  checks += 1;
  return error;
}

export const md5 = (text) => createHash("md5").update(text).digest("hex");

export const makeClient = () => new SQSClient({
  endpoint: SQS_ENDPOINT,
  region: AWS_REGION,
  credentials: { accessKeyId: "any", secretAccessKey: "any" },
});

export function done(...packages) {
  const versions = packages.map((name) => {
    const path = new URL(`node_modules/${name}/package.json`, import.meta.url);
    return `${name} ${JSON.parse(readFileSync(path)).version}`;
  });
  console.log("ran", ...versions, "node", process.version);
  console.log(`ok ${checks} checks`);
}
