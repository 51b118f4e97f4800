"""The inputs of the operations, as the service model of SQS says (2012-11-05): what botocore ships as service-2.json.

Names are the model's. What the model requires may still be missing here: the service tells it in its own words.
"""

from __future__ import annotations

from msgspec import Struct, field


class Input(Struct, frozen=True, rename="pascal"):
    """Base of them all. Fields that are not known are ignored, as the service does."""


class OfQueue(Input, frozen=True):
    queue_url: str | None = None


class AttributeValue(Input, frozen=True):
    """MessageAttributeValue and MessageSystemAttributeValue. Blobs come as base64 in both protocols."""

    data_type: str | None = None
    string_value: str | None = None
    binary_value: bytes | None = None
    string_list_values: list[str] | None = None
    binary_list_values: list[bytes] | None = None


class Message(Input, frozen=True):
    """What SendMessage and an entry of SendMessageBatch say of a message."""

    message_body: str | None = None
    delay_seconds: int | None = None
    message_attributes: dict[str, AttributeValue] | None = None
    message_system_attributes: dict[str, AttributeValue] | None = None
    message_deduplication_id: str | None = None
    message_group_id: str | None = None


class AddPermission(OfQueue, frozen=True):
    label: str | None = None
    aws_account_ids: list[str] | None = field(default=None, name="AWSAccountIds")
    actions: list[str] | None = None


class CancelMessageMoveTask(Input, frozen=True):
    task_handle: str | None = None


class ChangeMessageVisibility(OfQueue, frozen=True):
    receipt_handle: str | None = None
    visibility_timeout: int | None = None


class ChangeMessageVisibilityBatchEntry(Input, frozen=True):
    id: str | None = None
    receipt_handle: str | None = None
    visibility_timeout: int | None = None


class ChangeMessageVisibilityBatch(OfQueue, frozen=True):
    entries: list[ChangeMessageVisibilityBatchEntry] | None = None


class CreateQueue(Input, frozen=True):
    queue_name: str | None = None
    attributes: dict[str, str] | None = None
    tags: dict[str, str] | None = field(default=None, name="tags")


class DeleteMessage(OfQueue, frozen=True):
    receipt_handle: str | None = None


class DeleteMessageBatchEntry(Input, frozen=True):
    id: str | None = None
    receipt_handle: str | None = None


class DeleteMessageBatch(OfQueue, frozen=True):
    entries: list[DeleteMessageBatchEntry] | None = None


class DeleteQueue(OfQueue, frozen=True):
    pass


class GetQueueAttributes(OfQueue, frozen=True):
    attribute_names: list[str] | None = None


class GetQueueUrl(Input, frozen=True):
    queue_name: str | None = None
    queue_owner_aws_account_id: str | None = field(default=None, name="QueueOwnerAWSAccountId")


class ListDeadLetterSourceQueues(OfQueue, frozen=True):
    next_token: str | None = None
    max_results: int | None = None


class ListMessageMoveTasks(Input, frozen=True):
    source_arn: str | None = None
    max_results: int | None = None


class ListQueueTags(OfQueue, frozen=True):
    pass


class ListQueues(Input, frozen=True):
    queue_name_prefix: str | None = None
    next_token: str | None = None
    max_results: int | None = None


class PurgeQueue(OfQueue, frozen=True):
    pass


class ReceiveMessage(OfQueue, frozen=True):
    attribute_names: list[str] | None = None
    message_system_attribute_names: list[str] | None = None
    message_attribute_names: list[str] | None = None
    max_number_of_messages: int | None = None
    visibility_timeout: int | None = None
    wait_time_seconds: int | None = None
    receive_request_attempt_id: str | None = None


class RemovePermission(OfQueue, frozen=True):
    label: str | None = None


class SendMessage(Message, frozen=True):
    queue_url: str | None = None


class SendMessageBatchEntry(Message, frozen=True):
    id: str | None = None


class SendMessageBatch(OfQueue, frozen=True):
    entries: list[SendMessageBatchEntry] | None = None


class SetQueueAttributes(OfQueue, frozen=True):
    attributes: dict[str, str] | None = None


class StartMessageMoveTask(Input, frozen=True):
    source_arn: str | None = None
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None


class TagQueue(OfQueue, frozen=True):
    tags: dict[str, str] | None = None


class UntagQueue(OfQueue, frozen=True):
    tag_keys: list[str] | None = None
