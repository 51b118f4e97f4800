// sqs-producer and sqs-consumer: batches, attributes, FIFO, a handler that fails, and the heartbeat of a slow one.

import { once } from "node:events";
import { CreateQueueCommand, GetQueueAttributesCommand } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";
import { Producer } from "sqs-producer";
import { check, done, makeClient, same } from "./checks.mjs";

const sqs = makeClient();
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

async function make(QueueName, Attributes = {}) {
  return (await sqs.send(new CreateQueueCommand({ QueueName, Attributes }))).QueueUrl;
}

// Consume until `isEnough`, and give what the handler was shown.
async function consume(queueUrl, isEnough, options) {
  const shown = [];
  const problems = [];
  const consumer = Consumer.create({ queueUrl, sqs, waitTimeSeconds: 2, suppressFifoWarning: true, ...options(shown) });
  for (const event of ["error", "processing_error", "timeout_error"]) {
    consumer.on(event, (error) => problems.push(`${event}: ${error.message}`));
  }
  const isOver = new Promise((resolve) => {
    consumer.on("response_processed", () => isEnough(shown, problems) && resolve());
    consumer.on("empty", () => isEnough(shown, problems) && resolve());
  });
  consumer.start();
  await isOver;
  const stopped = once(consumer, "stopped");
  consumer.stop({ abort: true });
  await stopped;
  return { shown, problems };
}

async function left(QueueUrl) {
  const names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
  const { Attributes } = await sqs.send(new GetQueueAttributesCommand({ QueueUrl, AttributeNames: names }));
  return names.map((name) => Attributes[name]);
}

async function inBatches() {
  const queueUrl = await make("batches");
  const producer = Producer.create({ queueUrl, sqs });
  const sent = await producer.send(Array.from({ length: 25 }, (_, number) => `m${number}`));
  same(sent.length, 25, "the producer sends more than a batch holds");
  same(await producer.queueSize(), 25, "queueSize");
  const { shown, problems } = await consume(queueUrl, (shown) => shown.length >= 25, (shown) => ({
    batchSize: 10,
    handleMessageBatch: async (messages) => {
      shown.push(...messages.map((each) => each.Body));
      return messages;
    },
  }));
  same(shown, Array.from({ length: 25 }, (_, number) => `m${number}`), "what the batch handler was shown");
  same(problems, [], "problems with batches");
  same(await left(queueUrl), ["0", "0"], "all were deleted");
}

async function withAttributes() {
  const queueUrl = await make("attributes");
  const messageAttributes = { kind: { DataType: "String", StringValue: "ä" } };
  await Producer.create({ queueUrl, sqs }).send({ id: "1", body: "with", delaySeconds: 1, messageAttributes });
  const { shown } = await consume(queueUrl, (shown) => shown.length, (shown) => ({
    messageAttributeNames: ["kind"],
    messageSystemAttributeNames: ["SentTimestamp", "ApproximateFirstReceiveTimestamp"],
    handleMessage: async (message) => {
      shown.push(message);
      return message;
    },
  }));
  const [message] = shown;
  same(message.MessageAttributes, messageAttributes, "the attributes of a message");
  const { SentTimestamp, ApproximateFirstReceiveTimestamp } = message.Attributes;
  check(ApproximateFirstReceiveTimestamp - SentTimestamp >= 1000, "the delay of a message");
  same(await left(queueUrl), ["0", "0"], "it was deleted");
}

async function inOrder() {
  const queueUrl = await make("order.fifo", { FifoQueue: "true" });
  const entries = ["a1", "b1", "a2", "b2"].map((body) => ({ id: body, body, groupId: body[0], deduplicationId: body }));
  await Producer.create({ queueUrl, sqs }).send(entries);
  await Producer.create({ queueUrl, sqs }).send(entries.slice(0, 2)); // duplicates
  const { shown } = await consume(queueUrl, (shown) => shown.length >= 4, (shown) => ({
    handleMessage: async (message) => {
      shown.push(message.Body);
      return message;
    },
  }));
  same(shown.filter((body) => body[0] === "a"), ["a1", "a2"], "the order of a group");
  same(shown.filter((body) => body[0] === "b"), ["b1", "b2"], "the order of the other group");
  same(await left(queueUrl), ["0", "0"], "duplicates were not kept");
}

// A handler throws: with terminateVisibilityTimeout the message comes back at once, or after so many seconds.
async function failing() {
  const queueUrl = await make("failing", { VisibilityTimeout: "600" });
  await Producer.create({ queueUrl, sqs }).send("unlucky");
  const begun = Date.now();
  const { shown, problems } = await consume(queueUrl, (shown) => shown.length >= 3, (shown) => ({
    messageSystemAttributeNames: ["ApproximateReceiveCount"],
    terminateVisibilityTimeout: ([message]) => Number(message.Attributes.ApproximateReceiveCount) - 1,
    handleMessage: async (message) => {
      shown.push(message.Attributes.ApproximateReceiveCount);
      if (shown.length < 3) throw new Error("not yet");
      return message;
    },
  }));
  same(shown, ["1", "2", "3"], "how often it was received");
  same(problems.length, 2, "problems that were told");
  check(Date.now() - begun >= 1000, "the second time it came back after a second");
  same(await left(queueUrl), ["0", "0"], "deleted in the end");
}

// The handler takes longer than the visibility timeout; heartbeats keep the message hidden.
async function heartbeat() {
  const queueUrl = await make("heartbeat");
  await Producer.create({ queueUrl, sqs }).send("slow");
  let another = 0;
  const rival = Consumer.create({
    queueUrl,
    sqs,
    waitTimeSeconds: 1,
    handleMessage: async () => {
      another += 1;
    },
  });
  rival.on("error", () => undefined); // its last poll is aborted
  const { shown, problems } = await consume(queueUrl, (shown) => shown.length, (shown) => ({
    visibilityTimeout: 3,
    heartbeatInterval: 1,
    handleMessage: async (message) => {
      rival.start();
      await pause(4.5);
      shown.push(message.Body);
      return message;
    },
  }));
  rival.stop({ abort: true });
  same([shown, problems, another], [["slow"], [], 0], "only the slow handler was shown the message");
  same(await left(queueUrl), ["0", "0"], "it was deleted after its first visibility timeout");
}

// A handler that is given up: its message comes back when its visibility timeout is over.
async function timedOut() {
  const queueUrl = await make("timed-out");
  await Producer.create({ queueUrl, sqs }).send("stuck");
  const { shown, problems } = await consume(queueUrl, (shown) => shown.length >= 2, (shown) => ({
    visibilityTimeout: 1,
    handleMessageTimeout: 100,
    handleMessage: async (message) => {
      shown.push(message.Body);
      if (shown.length < 2) await pause(2);
      return message;
    },
  }));
  same(shown, ["stuck", "stuck"], "shown twice");
  same(problems.length, 1, "the handler that was given up");
}

async function absentQueue() {
  const consumer = Consumer.create({
    queueUrl: `${process.env.SQS_ENDPOINT}/000000000000/absent`,
    sqs,
    pollingWaitTimeMs: 60_000,
    handleMessage: async () => undefined,
  });
  const failed = once(consumer, "error");
  consumer.start();
  const [error] = await failed;
  consumer.stop({ abort: true });
  same(error.code, "QueueDoesNotExist", "the code of the consumer's error");
}

const scenarios = [inBatches, withAttributes, inOrder, failing, heartbeat, timedOut, absentQueue];
await Promise.all(scenarios.map((each) => each()));
sqs.destroy();
done("sqs-consumer", "sqs-producer");
