"""A drafter's config.json in DeepSpec's, z-lab's or Speculators' format, read into this library's names and checked."""

from dataclasses import dataclass
from math import isfinite

from dspark_lab.drafters.markov import HEADS


@dataclass(frozen=True)
class DrafterConfig:
    """What a drafter's architecture needs of its config.json.

    ``taps``: target layers, counted from 0, whose outputs feed the drafter (-1: the embedding). ``softcap``: logits are
    bent into (-softcap, softcap) before any Markov bias. ``gemma``: Gemma-4's layers rather than Qwen3's.
    ``confidence_temperatures``: one divisor a position for the confidence logits, or (); published checkpoints may have
    them. At temperature 0, under keys of this library's own: ``confidence_weights_greedy``, what the confidence head
    has there in its weights' place (see `ConfidenceHead`), and ``confidence_temperatures_greedy``, the divisors; or ().
    ``embedding_scale``: what the target's embeddings are multiplied by, on top of the target's own scale.

    One entry a draft layer: ``windows``, from how many positions back a slot sees, itself included, or None for all;
    ``causal``, whether a slot sees the block up to itself rather than whole. ``draft_window``: the most positions of
    context that any layer keeps, or None.

    ``speculator``: an EAGLE-3 head in Speculators' format, which has norms of its own (``norm_before_residual``,
    ``norm_before_fc``) and none on queries and keys, and may know only ``draft_vocab_size`` of the target's tokens.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope_theta: float
    rope_parameters: dict
    num_target_layers: int | None
    taps: tuple[int, ...]
    block_size: int
    mask_token_id: int
    markov_rank: int
    markov_head_type: str
    confidence_head: bool
    confidence_temperatures: tuple[float, ...]
    confidence_temperatures_greedy: tuple[float, ...]
    confidence_weights_greedy: tuple[float, ...]
    softcap: float | None
    gemma: bool
    embedding_scale: float
    windows: tuple[int | None, ...]
    causal: tuple[bool, ...]
    draft_window: int | None
    speculator: bool
    norm_before_residual: bool
    norm_before_fc: bool
    draft_vocab_size: int

    @classmethod
    def from_json(cls, raw):
        """Read ``raw``, a parsed config.json. Raises ValueError that names what is missing or makes no sense."""
        raw = {**(raw.get("transformer_layer_config") or {}), **raw, **(raw.get("dflash_config") or {})}
        architecture = (raw.get("architectures") or ["?"])[0]
        gemma, speculator = architecture.startswith("Gemma4"), raw.get("speculators_model_type") == "eagle3"
        taps = speculator_taps(raw) if speculator else raw.get("target_layer_ids")
        check_complete({**raw, "target_layer_ids": taps or None}, architecture, speculator)
        rope = raw.get("rope_parameters") or {}
        if gemma:
            rope = rope.get("full_attention", rope)
        windows = layer_windows(raw)
        return cls(
            architecture="Eagle3Speculator" if speculator else architecture,
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            target_hidden_size=raw.get("target_hidden_size") or raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=raw["num_attention_heads"],
            num_kv_heads=(gemma and raw.get("num_global_key_value_heads")) or raw["num_key_value_heads"],
            head_dim=(gemma and raw.get("global_head_dim"))
            or raw.get("head_dim")
            or raw["hidden_size"] // raw["num_attention_heads"],
            rms_norm_eps=raw["rms_norm_eps"],
            max_position_embeddings=raw.get("max_position_embeddings", 4096),
            rope_theta=rope.get("rope_theta") or raw.get("rope_theta") or 10000.0,
            rope_parameters=rope or raw.get("rope_scaling") or {},
            num_target_layers=raw.get("num_target_layers"),
            taps=tuple(taps),
            block_size=speculator_block(raw) if speculator else raw.get("block_size") or raw.get("ttt_length", 7),
            mask_token_id=raw.get("mask_token_id") or 0,
            markov_rank=raw.get("markov_rank") or 0,
            markov_head_type=raw.get("markov_head_type", "vanilla"),
            confidence_head=bool(raw.get("enable_confidence_head")),
            confidence_temperatures=tuple(raw.get("confidence_temperatures") or ()),
            confidence_temperatures_greedy=tuple(raw.get("confidence_temperatures_greedy") or ()),
            confidence_weights_greedy=tuple(raw.get("confidence_weights_greedy") or ()),
            softcap=raw.get("final_logit_softcapping"),
            gemma=gemma,
            embedding_scale=raw.get("input_embedding_scale", 1.0),
            windows=windows,
            causal=layer_causality(raw, windows),
            draft_window=raw.get("draft_window_size"),
            speculator=speculator,
            norm_before_residual=bool(raw.get("norm_before_residual")),
            norm_before_fc=bool(raw.get("norm_before_fc")),
            draft_vocab_size=raw.get("draft_vocab_size") or raw["vocab_size"],
        )

    def check(self, target):
        """Raise ValueError unless a drafter of this shape can draft for ``target``."""
        for what, mine, theirs in [
            ("vocabulary", self.vocab_size, target.vocab_size),
            ("hidden size", self.target_hidden_size, target.hidden_size),
            ("number of target layers", self.num_target_layers, target.num_layers),
        ]:
            if mine not in (theirs, None):
                raise ValueError(
                    f"the drafter was made for a target with {what} {mine}, this target has {theirs}; "
                    "give the drafter its own target, or a drafter trained for this one"
                )
        if bad := [i for i in self.taps if not -1 <= i < target.num_layers - 1]:
            raise ValueError(
                f"the drafter taps target layers {bad}; allowed are -1 (the embedding) to {target.num_layers - 2} "
                f"(the last layer of {target.num_layers} is not tapped)"
            )
        if "Eagle3" in self.architecture and self.num_layers != 1:
            raise ValueError(f"the EAGLE-3 head has {self.num_layers} layers; only heads of one layer are read here")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(f"mask_token_id {self.mask_token_id} is outside the vocabulary of {self.vocab_size}")
        if self.markov_rank and self.markov_head_type not in HEADS:
            raise ValueError(f"no Markov head here is of type {self.markov_head_type!r}; known are {', '.join(HEADS)}")
        for name in ("confidence_temperatures", "confidence_temperatures_greedy"):
            check_temperatures(name, getattr(self, name), self.block_size)
        check_weights(self.confidence_weights_greedy, self.hidden_size + self.markov_rank + self.block_size)

    def temperatures(self, greedy):
        """The divisors for the confidence logits, or (): the greedy list if there is one and drafts are ``greedy``."""
        return (greedy and self.confidence_temperatures_greedy) or self.confidence_temperatures


def check_complete(raw, architecture, speculator):
    """Raise ValueError that names what the config.json ``raw`` of a drafter of this kind lacks."""
    needed = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    needed += ["num_key_value_heads", "rms_norm_eps"]
    needed += ["num_target_layers"] if architecture.startswith(("Gemma4", "Qwen3")) else []
    needed += [] if speculator or "Eagle3" in architecture else ["block_size", "mask_token_id"]
    if missing := [name for name in (*needed, "target_layer_ids") if raw.get(name) is None]:
        raise ValueError(f"the drafter's config.json lacks {', '.join(missing)}; is it a drafter's?")


def check_temperatures(name, temperatures, positions):
    """Raise ValueError unless ``temperatures`` is empty or holds a positive number for each of ``positions``."""
    if temperatures and len(temperatures) != positions:
        raise ValueError(f"{name} has {len(temperatures)} entries, but the block has {positions} positions")
    if bad := [t for t in temperatures if not (isinstance(t, int | float) and 0 < t < float("inf"))]:
        raise ValueError(f"{name} holds {bad[0]!r}; a temperature is a finite positive number")


def check_weights(weights, expected):
    """Raise ValueError unless greedy confidence ``weights`` are none, or as many finite numbers as ``expected``."""
    if weights and len(weights) != expected:
        raise ValueError(f"confidence_weights_greedy has {len(weights)} entries; this drafter's head takes {expected}")
    if bad := [w for w in weights if not (isinstance(w, int | float) and isfinite(w))]:
        raise ValueError(f"confidence_weights_greedy holds {bad[0]!r}; a weight is a finite number")


def layer_windows(raw):
    """The window of each draft layer: ``sliding_window`` for those of ``layer_types`` that slide, None for the rest."""
    n, window = raw["num_hidden_layers"], raw.get("sliding_window")
    kinds = raw.get("layer_types") or ["full_attention"] * n
    if len(kinds) != n or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layer_types is {kinds}; it must name full_attention or sliding_attention for {n} layers")
    if "sliding_attention" in kinds and not window:
        raise ValueError("the drafter has sliding_attention layers, but its config.json names no sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def layer_causality(raw, windows):
    """Whether each draft layer's block is causal: as one of three entries says, or else the sliding layers' are."""
    said = (raw.get(name) for name in ("causal", "dflash_query_causal", "is_causal"))
    value = next((value for value in said if value is not None), None)
    return tuple((window is not None) if value is None else bool(value) for window in windows)


def speculator_taps(raw):
    """The taps of a Speculators head. It counts the embedding as 0, and layer i as i + 1."""
    return [i - 1 for i in raw.get("eagle_aux_hidden_state_layer_ids") or ()]


def speculator_block(raw):
    """How many tokens a Speculators head was trained to draft."""
    methods = (raw.get("speculators_config") or {}).get("proposal_methods") or [{}]
    return methods[0].get("speculative_tokens") or 3
