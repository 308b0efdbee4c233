"""The `tf.train.Example` message, defined from its schema so that TensorFlow is not needed.

Schema: tensorflow/core/example/{example,feature}.proto. Lists may be packed or unpacked, and map entries may be in any
order, as protobuf prescribes.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "bert_large.example"  # not "tensorflow": both can be loaded in one process


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any, *, repeated: bool = False, of: str = ""
) -> descriptor_pb2.FieldDescriptorProto:
    label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, type=kind, label=label)
    if of:
        field.type_name = f".{_PACKAGE}.{of}"
    return field


def _example_class(*, packed_as_bytes: bool = False) -> type[Any]:
    file = descriptor_pb2.FileDescriptorProto(name="bert_large/example.proto", package=_PACKAGE, syntax="proto3")
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, kind in enumerate(("Bytes", "Float", "Int64"), start=1):
        value_type = _FIELD.TYPE_BYTES if packed_as_bytes else getattr(_FIELD, f"TYPE_{kind.upper()}")
        _add_field(file.message_type.add(name=f"{kind}List"), "value", 1, value_type, repeated=True)
        _add_field(feature, f"{kind.lower()}_list", number, _FIELD.TYPE_MESSAGE, of=f"{kind}List").oneof_index = 0

    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, _FIELD.TYPE_STRING)
    _add_field(entry, "value", 2, _FIELD.TYPE_MESSAGE, of="Feature")
    _add_field(features, "feature", 1, _FIELD.TYPE_MESSAGE, repeated=True, of="Features.FeatureEntry")

    _add_field(file.message_type.add(name="Example"), "features", 1, _FIELD.TYPE_MESSAGE, of="Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


Example: type[Any] = _example_class()
"""Message class: `Example().features.feature[name].int64_list.value` and so on."""

PackedExample: type[Any] = _example_class(packed_as_bytes=True)
"""The same message with each packed list as the byte string that it is encoded in."""
