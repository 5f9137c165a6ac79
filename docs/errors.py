"""The writer of docs/errors.md (`make docs`): the table of errors.proto, with its comments."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2

from inference_service.v1 import error_code_pb2, errors_pb2

DESCRIPTORS = Path(errors_pb2.__file__).with_name("descriptors.binpb")

HEAD = """# Errors

<!-- Written by `make docs` from protos/inference_service/v1/errors.proto. Do not edit. -->

Every error ends the call. Over gRPC the call ends with a status that has one
`google.rpc.ErrorInfo` (domain `inference-service`, and a reason of this table). On REST the
answer is `{"detail": "<one sentence>"}`, with the reason in the header `X-Error-Reason`, and
`Retry-After` where the time is known. In a stream that has begun, REST sends the event `error`
with `detail` and `reason`.

| reason | gRPC | after the first token | REST | a retry helps | what to do |
|---|---|---|---|---|---|
"""


def comments() -> dict[str, str]:
    """Return the comment of each reason. Python's own descriptors have no comments."""
    described = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    [proto] = (f for f in described.file if f.name == errors_pb2.DESCRIPTOR.name)
    reasons = next(i for i, e in enumerate(proto.enum_type) if e.name == "ErrorReason")
    enum_type, value = 5, 2  # the field numbers that make up a path in source_code_info
    return {
        proto.enum_type[reasons].value[location.path[3]].name: location.leading_comments
        for location in proto.source_code_info.location
        if list(location.path[:3]) == [enum_type, reasons, value] and len(location.path) == 4
    }


def code_of(number: int) -> str:
    """Return the name that gRPC has for a code."""
    return error_code_pb2.ErrorCode.Name(number).removeprefix("ERROR_CODE_")


def main() -> None:
    """Print the page."""
    rows, texts = [], []
    explained = comments()
    for value in errors_pb2.ErrorReason.DESCRIPTOR.values[1:]:
        rule = value.GetOptions().Extensions[errors_pb2.error_rule]
        reason = value.name.removeprefix("ERROR_REASON_")
        code, later = code_of(rule.code), rule.code_after_first_token
        after = code_of(later) if later else ""
        retry = "yes" if rule.retry_helps else ""
        facts = (f"`{reason}`", code, after, str(rule.http_status), retry, rule.action)
        rows.append(f"| {' | '.join(facts)} |")
        lines = (line.strip() for line in explained[value.name].splitlines())
        texts.append(f"**`{reason}`** — {' '.join(lines).strip()}")
    print(HEAD + "\n".join(rows) + "\n\n" + "\n\n".join(texts))


main()
