"""The Ray Serve application."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mtp.config.base import Section


class AutoscalingConfig(Section):
    """How the number of a model's replicas follows the load; `policy: none` keeps `serve.num_replicas`."""

    policy: Literal["none", "requests", "tokens"] = "none"
    """`requests`: Ray Serve's own, on ongoing requests. `tokens`: on tokens in flight and the wait for them."""
    min_replicas: NonNegativeInt = 1
    """0 lets an idle model go; its next request waits for a replica to load."""
    max_replicas: PositiveInt = 2
    target_requests: PositiveFloat = 4
    """Policy `requests`: ongoing requests that one replica should have."""
    target_wait_s: PositiveFloat = 2.0
    """Policy `tokens`: seconds in which the tokens in flight should be gone."""
    upscale_delay_s: NonNegativeFloat = 2.0
    downscale_delay_s: NonNegativeFloat = 60.0

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) is more than max_replicas ({self.max_replicas})")
        return self


class ServeConfig(Section):
    """Served models: where they listen, who may use them, and how their replicas decode."""

    app_name: str = Field(default="mtp", pattern=r"^[a-z][a-z0-9-]{0,30}$")
    engine: Literal["native", "vllm"] = "native"
    """What decodes: this platform's own engine, or vLLM in an environment of its own, for big models on GPUs."""
    vllm_python: str | None = None
    """Engine `vllm`: the interpreter of that environment on every node; unset: the replica's own."""
    vllm_args: tuple[str, ...] = ()
    """Engine `vllm`: more arguments of its server, such as --tensor-parallel-size=2."""
    host: str = "127.0.0.1"
    """Other addresses need API keys (`mtp keys add`); without any the endpoint stays on the loopback address."""
    port: int = Field(default=8000, gt=0, lt=65536)
    num_gateways: PositiveInt = 1
    """Processes that speak HTTP; rate limits count in each."""
    num_replicas: PositiveInt = 1
    """Engines of one model."""
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    num_cpus: PositiveFloat = 0.5
    num_gpus: float = Field(default=0, ge=0)
    num_threads: PositiveInt = 1
    """Threads of one replica's tensor operations on the CPU."""
    max_ongoing_requests: PositiveInt = 32
    """Completions that one replica holds, running or in its queue."""
    max_queued_requests: NonNegativeInt = 64
    """Completions that wait at the gateway for a replica; more are answered with 429."""
    max_batch_size: PositiveInt = 16
    """Requests that one replica decodes together."""
    max_model_len: PositiveInt | None = None
    """Longest prompt plus completion, in tokens; unset: the model's max_position_embeddings."""
    max_batch_tokens: PositiveInt = 512
    """Tokens that one step computes; longer prompts are taken in chunks beside the running ones."""
    cache_blocks: PositiveInt | None = None
    """Blocks (of 16 tokens) of the latent cache; unset: enough for max_batch_size requests of max_model_len."""
    prefix_caching: bool = True
    """Keep what requests computed for later ones that begin alike, while nobody needs the memory."""
    prefix_routing: bool = True
    """Send a prompt to the replica that has its beginning in the cache, unless that one is busier by far."""
    decoder: Literal["standard", "mtp", "draft_model"] = "mtp"
    """Of requests that name none; a model without prediction modules takes standard for mtp."""
    draft_model: str | None = None
    """URI of a small model of the same tokenizer that drafts for requests of decoder draft_model; unset: none."""
    num_draft_tokens: NonNegativeInt | None = None
    """Drafts a step; unset: chosen step by step (adaptive_drafts), or n_future - 1."""
    adaptive_drafts: bool = True
    """Choose the draft length of requests that leave it open by measured costs and acceptance."""
    draft_vocab_size: PositiveInt | None = None
    """Draft from the first so many ids alone, which is cheaper; outputs do not change. Unset: from all."""
    compiled_step: Literal["auto", "on", "off"] = "auto"
    """The C++ step on processors: auto falls back to PyTorch where there is no compiler; on fails there."""
    quantization: Literal["auto", "none", "drafts", "int8"] = "auto"
    """8-bit whole numbers, in the compiled step alone. drafts: the prediction modules and their heads; outputs do
    not change. auto: drafts where the compiled step runs. int8: all linear layers; changes the model's numbers a
    little."""
    api_keys: str | None = None
    """File of API keys; unset: api_keys.json in the state folder. Without a key in it, everybody may ask."""
    max_completion_tokens: PositiveInt | None = None
    """Most tokens that a request may ask for; unset: what max_model_len leaves."""
    max_body_bytes: PositiveInt = 16 * 2**20
    request_timeout_s: PositiveFloat = 600
    """Longest that one request may take, waiting included."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of other origins that browsers let in, such as https://example.com; none by default."""
    log_prompts: bool = False
    """Write prompts and outputs into the log, beside the counts."""
    traces: str | None = None
    """Where traces of requests go, with the extra `tracing`: an OTLP address such as http://localhost:4318/v1/traces,
    or a file for lines of JSON. Unset: none are made."""
    follow_alias_s: PositiveFloat = 10
    """How often a deployment of models:/NAME@ALIAS looks whether the alias has moved."""
    telemetry_minutes: PositiveFloat = 5
    """How often measured acceptance is written to the model's version in the registry."""

    @model_validator(mode="after")
    def _settings_fit_the_engine(self) -> Self:
        theirs = {"draft_vocab_size": None, "quantization": "auto", "draft_model": None}
        wrong = [name for name, neutral in theirs.items() if getattr(self, name) != neutral]
        wrong += ["compiled_step"] if self.compiled_step == "on" else []
        if self.engine == "vllm" and wrong:
            raise ValueError(f"{' and '.join(wrong)} belong to engine native, and engine is vllm; leave them out")
        if self.engine == "native" and (self.vllm_python or self.vllm_args):
            raise ValueError("vllm_python and vllm_args belong to engine vllm, and engine is native; set serve.engine")
        if self.decoder == "draft_model" and self.draft_model is None:
            raise ValueError("decoder draft_model needs a draft model; set serve.draft_model to its URI")
        return self
