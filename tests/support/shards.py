"""One rank whose optimizer holds its share of a model; run by tests/integration/test_communication.py.

Prints as JSON: elements and tensors of the model, elements of moments kept here, those that came for a checkpoint, and
a digest of the weights after an update.
"""

import hashlib
import json

import torch
from bert_large.config.training import OptimConfig
from bert_large.distributed.joining import joined_ranks
from bert_large.distributed.sharding import ParameterShards
from bert_large.optim.build import build_optimizer, get_moments, moment_names

from tests.support.models import tiny_model


def main() -> None:
    with joined_ranks() as ranks:
        model = tiny_model()
        shards = ParameterShards(model, ranks)
        optimizer = build_optimizer(model, OptimConfig(learning_rate=0.1, total_steps=10), owned=shards.owned)
        parameters = dict(model.named_parameters())
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        versions = [parameter._version for parameter in parameters.values()]
        optimizer.step()
        shards.share_weights()
        assert all(its._version > before for its, before in zip(parameters.values(), versions, strict=True))
        kept = get_moments(model, optimizer)
        came = [
            moment
            for name in parameters
            for moment in moment_names(name)
            if (tensor := shards.send_to_main(name, kept.get(moment))) is not None and bool((tensor > 0).all())
        ]
        weights = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
        state = sum(
            its.numel() for values in optimizer.state.values() for its in values.values() if torch.is_tensor(its)
        )
        digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
        print(json.dumps({"parameters": len(weights), "tensors": len(parameters), "kept": state, "moments": came,
                          "weights": digest}))  # fmt: skip


if __name__ == "__main__":
    main()
