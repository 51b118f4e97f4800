// @aws-sdk/client-sqs, which checks the MD5 of each body itself: commands, paginators and classes of errors.

import * as sqs from "@aws-sdk/client-sqs";
import { ACCOUNT, AWS_REGION, SQS_ENDPOINT, check, done, makeClient, md5, raises, same } from "./checks.mjs";

const BODY = 'Grüße, "tq" & <friends>\n\t🐌';
const ATTRIBUTES = {
  City: { DataType: "String", StringValue: "Any City" },
  Weight: { DataType: "Number", StringValue: "1.50" },
  Thumb: { DataType: "Binary", BinaryValue: new Uint8Array([0, 1, 255]) },
};

const client = makeClient();
const called = new Set();
const send = (name, input = {}) => {
  called.add(name);
  return client.send(new sqs[`${name}Command`](input));
};
const make = async (QueueName, Attributes = {}) => (await send("CreateQueue", { QueueName, Attributes })).QueueUrl;
const receive = async (QueueUrl, asked = {}) => (await send("ReceiveMessage", { QueueUrl, ...asked })).Messages ?? [];
const arn = (name) => `arn:aws:sqs:${AWS_REGION}:${ACCOUNT}:${name}`;

async function queues() {
  const url = await make("node", { VisibilityTimeout: "17" });
  same(url, `${SQS_ENDPOINT}/${ACCOUNT}/node`, "the URL of a queue");
  same((await send("GetQueueUrl", { QueueName: "node" })).QueueUrl, url, "GetQueueUrl");
  const { Attributes } = await send("GetQueueAttributes", { QueueUrl: url, AttributeNames: ["All"] });
  same(Attributes.QueueArn, arn("node"), "QueueArn");
  await send("SetQueueAttributes", { QueueUrl: url, Attributes: { DelaySeconds: "0" } });
  await send("TagQueue", { QueueUrl: url, Tags: { team: "a", stage: "b" } });
  await send("UntagQueue", { QueueUrl: url, TagKeys: ["stage"] });
  same((await send("ListQueueTags", { QueueUrl: url })).Tags, { team: "a" }, "ListQueueTags");
  await send("AddPermission", { QueueUrl: url, Label: "l", AWSAccountIds: ["111111111111"], Actions: ["*"] });
  await send("RemovePermission", { QueueUrl: url, Label: "l" });
  for (let number = 0; number < 5; number += 1) await make(`page-${number}`);
  const pages = [];
  for await (const page of sqs.paginateListQueues({ client, pageSize: 2 }, { QueueNamePrefix: "page-" })) {
    pages.push(page.QueueUrls.length);
  }
  same(pages, [2, 2, 1], "pages of ListQueues");
  const { QueueUrls } = await send("ListQueues", { QueueNamePrefix: "page-" });
  for (const each of QueueUrls) await send("DeleteQueue", { QueueUrl: each });
}

async function messages() {
  const url = await make("messages");
  const sent = await send("SendMessage", { QueueUrl: url, MessageBody: BODY, MessageAttributes: ATTRIBUTES });
  same(sent.MD5OfMessageBody, md5(BODY), "the MD5 of the body");
  const asked = { MessageSystemAttributeNames: ["All"], MessageAttributeNames: ["All"], WaitTimeSeconds: 2 };
  const [got] = await receive(url, asked);
  same(got.Body, BODY, "the body");
  same(got.MessageAttributes, ATTRIBUTES, "the message attributes");
  same(got.MD5OfMessageAttributes, sent.MD5OfMessageAttributes, "the MD5 of the attributes");
  same(got.Attributes.ApproximateReceiveCount, "1", "ApproximateReceiveCount");
  await send("ChangeMessageVisibility", { QueueUrl: url, ReceiptHandle: got.ReceiptHandle, VisibilityTimeout: 0 });
  const [again] = await receive(url);
  same(again.MessageId, sent.MessageId, "given back");
  await send("DeleteMessage", { QueueUrl: url, ReceiptHandle: again.ReceiptHandle });
  same(await receive(url), [], "deleted");

  const later = receive(url, { WaitTimeSeconds: 10 });
  await send("SendMessage", { QueueUrl: url, MessageBody: "while it waits" });
  same((await later).map((each) => each.Body), ["while it waits"], "a long poll");
  await send("PurgeQueue", { QueueUrl: url });
}

async function batches() {
  const url = await make("batches");
  const Entries = ["a", "b", "c"].map((Id) => ({ Id, MessageBody: `${Id} ${BODY}`, MessageAttributes: ATTRIBUTES }));
  Entries.push({ Id: "bad", MessageBody: "x", DelaySeconds: 901 });
  const sent = await send("SendMessageBatch", { QueueUrl: url, Entries });
  same(sent.Successful.map((each) => each.Id), ["a", "b", "c"], "sent of a batch");
  same(sent.Failed.map((each) => [each.Id, each.Code]), [["bad", "InvalidParameterValue"]], "refused of a batch");
  const got = await receive(url, { MaxNumberOfMessages: 10 });
  same(got.map((each) => each.Body), ["a", "b", "c"].map((id) => `${id} ${BODY}`), "the bodies of a batch");
  const entries = got.map(({ MessageId, ReceiptHandle }) => ({ Id: MessageId, ReceiptHandle }));
  const changes = entries.map((entry) => ({ ...entry, VisibilityTimeout: 60 }));
  const changed = await send("ChangeMessageVisibilityBatch", { QueueUrl: url, Entries: changes });
  same(changed.Successful.length, 3, "changed of a batch");
  same((await send("DeleteMessageBatch", { QueueUrl: url, Entries: entries })).Successful.length, 3, "deleted");
}

async function fifo() {
  const url = await make("orders.fifo", { FifoQueue: "true" });
  const put = (MessageBody, MessageGroupId) =>
    send("SendMessage", { QueueUrl: url, MessageBody, MessageGroupId, MessageDeduplicationId: MessageBody });
  const first = await put("a1", "a");
  same((await put("a1", "a")).MessageId, first.MessageId, "a duplicate is the same message");
  await put("a2", "a");
  await put("b1", "b");
  check(/^\d+$/.test(first.SequenceNumber), "a sequence number");
  const [a1] = await receive(url);
  const [b1] = await receive(url, { MaxNumberOfMessages: 10 });
  same([a1.Body, b1.Body], ["a1", "b1"], "a group waits for the message in flight");
  await send("DeleteMessage", { QueueUrl: url, ReceiptHandle: a1.ReceiptHandle });
  same((await receive(url)).map((each) => each.Body), ["a2"], "the next of the group");
}

async function deadLetters() {
  const dead = await make("dead");
  const RedrivePolicy = JSON.stringify({ deadLetterTargetArn: arn("dead"), maxReceiveCount: 1 });
  const source = await make("source", { RedrivePolicy });
  same((await send("ListDeadLetterSourceQueues", { QueueUrl: dead })).queueUrls, [source], "sources");
  await send("SendMessage", { QueueUrl: source, MessageBody: "poison" });
  await receive(source, { VisibilityTimeout: 0 });
  same(await receive(source), [], "not received a second time");
  const { TaskHandle } = await send("StartMessageMoveTask", { SourceArn: arn("dead") });
  const poll = { QueueUrl: source, WaitTimeSeconds: 10 };
  same((await send("ReceiveMessage", poll)).Messages[0].Body, "poison", "moved back");
  const { Results } = await send("ListMessageMoveTasks", { SourceArn: arn("dead") });
  same(Results[0].ApproximateNumberOfMessagesMoved, 1, "ApproximateNumberOfMessagesMoved");
  await raises(sqs.SQSServiceException, send("CancelMessageMoveTask", { TaskHandle }));
}

async function errors() {
  const absent = `${SQS_ENDPOINT}/${ACCOUNT}/absent`;
  const error = await raises(sqs.QueueDoesNotExist, send("GetQueueUrl", { QueueName: "absent" }));
  same(error.name, "QueueDoesNotExist", "the name of an error");
  same(error.$metadata.httpStatusCode, 400, "the status of an error");
  check(error.$metadata.requestId, "an error has the id of its request");
  check(error instanceof sqs.SQSServiceException, "the base class of errors");
  await raises(sqs.QueueDoesNotExist, send("SendMessage", { QueueUrl: absent, MessageBody: "x" }));
  await make("errors", { VisibilityTimeout: "1" });
  await raises(sqs.QueueNameExists, make("errors", { VisibilityTimeout: "2" }));
  const QueueUrl = await make("errors");
  await raises(sqs.ReceiptHandleIsInvalid, send("DeleteMessage", { QueueUrl, ReceiptHandle: "nonsense" }));
  await raises(sqs.InvalidMessageContents, send("SendMessage", { QueueUrl, MessageBody: "\ufffe" }));
  await raises(sqs.InvalidAttributeName, send("GetQueueAttributes", { QueueUrl, AttributeNames: ["Colour"] }));
  await raises(sqs.InvalidAttributeValue, make("other", { DelaySeconds: "901" }));
  await raises(sqs.EmptyBatchRequest, send("SendMessageBatch", { QueueUrl, Entries: [] }));
  const twice = [{ Id: "a", MessageBody: "x" }, { Id: "a", MessageBody: "x" }];
  await raises(sqs.BatchEntryIdsNotDistinct, send("SendMessageBatch", { QueueUrl, Entries: twice }));
  const many = Array.from({ length: 11 }, (_, number) => ({ Id: `${number}`, MessageBody: "x" }));
  await raises(sqs.TooManyEntriesInBatchRequest, send("SendMessageBatch", { QueueUrl, Entries: many }));
  await raises(sqs.ResourceNotFoundException, send("StartMessageMoveTask", { SourceArn: arn("absent") }));
  const wrong = await raises(sqs.SQSServiceException, send("ReceiveMessage", { QueueUrl, MaxNumberOfMessages: 11 }));
  same(wrong.name, "InvalidParameterValue", "the name of an error without a class");
}

for (const scenario of [queues, messages, batches, fifo, deadLetters, errors]) await scenario();
const known = Object.keys(sqs).filter((name) => name.endsWith("Command") && name !== "$Command");
same(known.length >= 23, true, "the commands of the package are found");
same(known.filter((name) => !called.has(name.slice(0, -"Command".length))), [], "commands that were not sent");
client.destroy();
done("@aws-sdk/client-sqs");
