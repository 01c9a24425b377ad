import torch

from mtp.config import ModelConfig, ObjectiveConfig
from mtp.model import MTPModel
from mtp.objective import MTPObjective
from mtp.train.loss_module import LossModule
from tests.train.small import SIZES


def loss(document_mask, tokens, document):
    torch.manual_seed(0)
    model = MTPModel(ModelConfig.model_validate(SIZES))
    n = model.config.n_future
    objective = MTPObjective(ObjectiveConfig(), n)
    targets = objective.targets(tokens, document)
    module = LossModule(model, objective, document_mask=document_mask)
    ones = torch.ones(n)
    value, _ = module(tokens, document, targets.ids, targets.weights, ones, objective.denominators(targets), 1.0)
    return float(value)


def test_a_document_sees_its_neighbours_in_the_row_only_without_the_document_mask():
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))
    document = (torch.arange(16) // 8).expand(2, -1)
    for document_mask, same in [(True, True), (False, False)]:
        alone = loss(document_mask, tokens.view(4, 8), torch.zeros(4, 8, dtype=torch.int64))
        packed = loss(document_mask, tokens, document)
        assert (abs(packed - alone) < 1e-5) == same
