"""Layer 0: text to token ids and back; no torch, no model, no files but tokenizer.json."""

from mtp.tokenizer.detokenize import DetokenizeStream
from mtp.tokenizer.tokenizer import END_OF_TEXT, Tokenizer

__all__ = ["END_OF_TEXT", "DetokenizeStream", "Tokenizer"]
