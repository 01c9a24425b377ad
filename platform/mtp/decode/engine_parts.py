"""Builds what an engine consists of, in the order in which the parts need each other. Does no work of its own."""

from dataclasses import dataclass

from mtp.decode.admission import DraftLimits
from mtp.decode.blocks import BlockPool
from mtp.decode.cache import LatentPages
from mtp.decode.calibration import step_costs
from mtp.decode.controller import DraftController
from mtp.decode.draft_model import DraftModel
from mtp.decode.drafting import Drafting
from mtp.decode.module_drafter import ModuleDrafter
from mtp.decode.network import Greedy, Network
from mtp.decode.network_choice import choose_network
from mtp.decode.options import EngineOptions
from mtp.decode.rows import Rows
from mtp.decode.scheduler import Scheduler
from mtp.decode.verification import Verifier
from mtp.model import MTPModel


@dataclass(frozen=True)
class EngineParts:
    """One engine's parts; each is described in its own file."""

    limits: DraftLimits
    pages: LatentPages
    pool: BlockPool
    rows: Rows
    network: Network
    greedy: Greedy | None
    scheduler: Scheduler
    verifier: Verifier
    controller: DraftController | None
    drafting: Drafting


def build_parts(
    model: MTPModel,
    options: EngineOptions,
    max_model_len: int,
    eos_ids: tuple[int, ...],
    draft_model: MTPModel | None,
) -> EngineParts:
    """The parts of an engine for `model`; `draft_model` is a second, smaller model that drafts for requests that ask.

    Raises:
        MTPError: the options insist on the compiled step where it cannot run.
    """
    config, size = model.config, options.max_batch_size
    limits = DraftLimits.of(config, options.max_draft_tokens, draft_model is not None)
    chained, drafts = model.prediction.chained, limits.modules
    depth = drafts if chained else min(drafts, 1)
    layers = config.num_hidden_layers + (drafts if chained else model.prediction.cache_layers)
    blocks = options.cache_blocks or size * -(-max_model_len // options.block_size)
    weight = model.model.embed_tokens.weight
    pages = LatentPages(config, layers, blocks, options.block_size, weight.device, weight.dtype)
    pool = BlockPool(blocks)
    rows = Rows(size, max_model_len, depth, limits.lookup + drafts, pages)
    network = choose_network(model, rows, pages, options)
    verifier = Verifier(eos_ids, config.vocab_size, weight.device)
    modules: ModuleDrafter | None = None
    if depth:
        modules = ModuleDrafter(model, network, rows, depth, size, options.draft_vocab_size)
    greedy = modules.greedy if modules is not None else network.greedy(None, None)
    controller: DraftController | None = None
    if options.adaptive_drafts and drafts:
        costs = step_costs(model, network, greedy, rows, drafts, options)
        controller = DraftController(costs, drafts, options.expected_acceptance)
    second: DraftModel | None = None
    if draft_model is not None:
        second = DraftModel(draft_model, config.vocab_size, rows, size, max_model_len, options.max_batch_tokens)
    drafting = Drafting(modules, rows, verifier, config.vocab_size, max_model_len, second, controller)
    scheduler = Scheduler(options, pool, rows)
    return EngineParts(limits, pages, pool, rows, network, greedy, scheduler, verifier, controller, drafting)
