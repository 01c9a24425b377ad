"""Layer 2: the inference engine. Token ids in, token ids out; plain PyTorch."""

from mtp.decode.engine import Engine
from mtp.decode.generation import Generation, default_speculation, generate, stream
from mtp.decode.grammar import GrammarCompiler
from mtp.decode.options import EngineOptions
from mtp.decode.request import (
    ACCEPTANCE_RULES,
    DECODERS,
    Request,
    Sampling,
    Speculation,
    StepOutput,
    Token,
    TokenLogprob,
)
from mtp.decode.stats import DecodeStats

__all__ = [
    "ACCEPTANCE_RULES",
    "DECODERS",
    "DecodeStats",
    "Engine",
    "EngineOptions",
    "Generation",
    "GrammarCompiler",
    "Request",
    "Sampling",
    "Speculation",
    "StepOutput",
    "Token",
    "TokenLogprob",
    "default_speculation",
    "generate",
    "stream",
]
