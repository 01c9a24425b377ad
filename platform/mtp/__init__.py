"""mtp: the library of mtp-platform, from raw text to a served multi-token-prediction model.

Importing this package imports nothing heavy; each subpackage states what it depends on (docs/architecture.md).
"""
