"""A model's passes through the C++ step. Numbers of a token do not depend on its batchmates, to the last bit."""

import ctypes
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mtp.decode.cache import LatentPages
from mtp.decode.hidden_ring import HiddenRing
from mtp.decode.native.build import library
from mtp.decode.native.greedy import NativeGreedy
from mtp.decode.native.layout import (
    BatchStruct,
    BlockStruct,
    JoinStruct,
    Layout,
    LevelStruct,
    PassStruct,
    TokensStruct,
    Weight,
    address,
)
from mtp.decode.network import Window
from mtp.decode.rows import Rows
from mtp.model import MTPModel
from mtp.model.block import Block
from mtp.model.prediction.independent import IndependentModules
from mtp.model.prediction.parallel import ParallelModules
from mtp.model.prediction.sequential import SequentialModules


class NativeNetwork:
    """See mtp.decode.network.Network; fp32 on the processor, weights optionally int8."""

    def __init__(
        self,
        model: MTPModel,
        rows: Rows,
        pages: LatentPages,
        quantization: Literal["none", "drafts", "int8"] = "none",
    ) -> None:
        """`quantization`: see EngineOptions. Raises BuildError when there is no compiler."""
        self._library = library()
        self._rows = rows
        self._pages = pages
        self._layout = Layout(int8=quantization == "int8")
        self._draft_layout = Layout(int8=True) if quantization == "drafts" else self._layout
        self._size = model.config.hidden_size
        self._depth = model.config.num_hidden_layers
        self._embedding = self._layout.vector(model.model.embed_tokens.weight)
        table = model.model.rotary.at(torch.arange(model.config.max_position_embeddings), model.lm_head.weight)
        self._rotation = [self._layout.vector(part) for part in table]
        self._backbone = self._blocks(self._layout, list(model.model.layers), 0)
        self._norm = self._layout.norm(model.model.norm)
        first, *others = model.heads()
        self._heads = [self._layout.weight(first), *(self._draft_layout.weight(head) for head in others)]
        self._prediction = model.prediction
        self._modules = self._prepare_modules()

    def backbone(self, tokens: Tensor, window: Window) -> Tensor:
        """See Network."""
        call = PassStruct(embedding=self._embedding, ids=address(tokens))
        return self._run(call, self._backbone, self._norm, window)

    def module(self, k: int, hidden: Tensor, tokens: Tensor, window: Window) -> Tensor:
        """See Network."""
        blocks, norm, join = self._modules[k - 1]
        call = PassStruct(embedding=self._embedding, ids=address(tokens), hidden=address(hidden), join=join)
        return self._run(call, blocks, norm, window)

    def horizons(self, hidden: Tensor, window: Window) -> list[Tensor]:
        """See Network."""
        if isinstance(self._prediction, ParallelModules):
            blocks, norm, _ = self._modules[0]
            state = self._run(PassStruct(hidden=address(hidden)), blocks, norm, window)
            if not self._prediction.tied:
                return [state] * self._prediction.horizons
            return [self._linear(weight, state) for weight in self._maps]
        return [
            self._run(PassStruct(hidden=address(hidden)), blocks, norm, window) for blocks, norm, _ in self._modules
        ]

    def logits(self, hidden: Tensor, horizon: int = 1, first: int | None = None) -> Tensor:
        """See Network."""
        return self._linear(self._head(horizon, first), hidden)

    def greedy(self, ring: HiddenRing | None, first: int | None) -> NativeGreedy:
        """See Network."""
        backbone = self._level(self._backbone, self._norm, JoinStruct(), self._head(1, None))
        backbone.outputs = ring.address(0) if ring is not None else None
        levels = []
        if ring is not None and self._prediction.chained:
            for k, (blocks, norm, join) in enumerate(self._modules, start=1):
                level = self._level(blocks, norm, join, self._head(min(k + 1, len(self._heads)), first))
                level.inputs = ring.address(k - 1)
                level.outputs = ring.address(k) if k < len(self._modules) else None
                levels.append(level)
        batch = BatchStruct(self._embedding, self._size, address(self._rows.tokens), self._rows.width)
        batch.span = ring.span if ring is not None else 1
        batch.tables = self._tables(self._rows.tables)
        return NativeGreedy(self._library, backbone, levels, batch, self._rows, ring)

    @staticmethod
    def _level(
        blocks: "ctypes.Array[BlockStruct]", norm: tuple[int | None, float], join: JoinStruct, head: Weight
    ) -> LevelStruct:
        return LevelStruct(ctypes.addressof(blocks), len(blocks), *norm, join, head)

    def _head(self, horizon: int, first: int | None) -> Weight:
        head = self._heads[horizon - 1]
        return head if first is None else Weight(head.data, head.scale, min(first, head.rows), head.columns)

    def _linear(self, weight: Weight, hidden: Tensor) -> Tensor:
        hidden = hidden.contiguous()
        output = torch.empty(*hidden.shape[:-1], weight.rows)
        count = hidden.numel() // self._size
        self._library.mtp_linear(
            ctypes.byref(weight), hidden.data_ptr(), output.data_ptr(), count, torch.get_num_threads()
        )
        return output

    def _run(
        self, call: PassStruct, blocks: "ctypes.Array[BlockStruct]", norm: tuple[int | None, float], window: Window
    ) -> Tensor:
        width, batch = window.width, len(window.rows)
        places = np.flatnonzero(np.arange(width) < window.counts[:, None])
        row_of = places // width
        positions = window.starts[row_of] + places % width
        needed = int(positions.max()) // self._pages.block_size + 1
        tables = np.ascontiguousarray(self._rows.tables[window.rows, :needed])
        call.tokens = self._tables(tables)
        call.tokens.count = len(places)
        call.tokens.positions, call.tokens.row_of = positions.ctypes.data, row_of.ctypes.data
        complete = len(places) == batch * width
        output = torch.empty(batch, width, self._size) if complete else torch.zeros(batch, width, self._size)
        call.blocks, call.block_count, call.hidden_size = ctypes.addressof(blocks), len(blocks), self._size
        call.final_norm, call.final_eps = norm
        call.output, call.places, call.threads = output.data_ptr(), places.ctypes.data, torch.get_num_threads()
        self._library.mtp_pass(ctypes.byref(call))
        return output

    def _tables(self, tables: np.ndarray) -> TokensStruct:
        """The part of a pass's tokens that says where their cache is; `tables` (rows, blocks) must outlive it."""
        where = TokensStruct(tables=tables.ctypes.data, table_width=tables.shape[1])
        where.block_size, (where.cos, where.sin) = self._pages.block_size, self._rotation
        return where

    def _blocks(self, layout: Layout, blocks: list[Block], layer: int) -> "ctypes.Array[BlockStruct]":
        made = [layout.block(block, self._pages.blocks[layer + index]) for index, block in enumerate(blocks)]
        return (BlockStruct * len(made))(*made)

    def _prepare_modules(self) -> "list[tuple[ctypes.Array[BlockStruct], tuple[int | None, float], JoinStruct]]":
        """For each pass of the modules: blocks, final norm, and how the input is joined (sequential)."""
        modules, layout, first = self._prediction, self._draft_layout, self._depth
        self._maps: list[Weight] = []
        if isinstance(modules, SequentialModules):
            own = [modules.at_depth(k) for k in range(1, len(self._pages.blocks) - first + 1)]
            return [
                (self._blocks(layout, [module.block], first + index), layout.norm(module.norm), layout.join(module))
                for index, module in enumerate(own)
            ]
        if isinstance(modules, IndependentModules):
            pairs = zip(modules.layers, modules.norms, strict=True)
            return [
                (self._blocks(layout, [block], first + index), layout.norm(norm), JoinStruct())
                for index, (block, norm) in enumerate(pairs)
            ]
        if isinstance(modules, ParallelModules):
            self._maps = [layout.weight(head) for head in modules.heads.parameters()] if modules.tied else []
            return [(self._blocks(layout, list(modules.layers), first), layout.norm(modules.norm), JoinStruct())]
        return []
