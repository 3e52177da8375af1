"""The calls of LIMe's routers, their training and reading, and of the embedded model and texts."""

from typing import Any

import sae_lens_ext as s
import sae_lens_ext.lime.arithmetic
from tests.reliability.calls import wrong_values as w
from tests.reliability.calls.material import model, new_model, tokens
from tests.reliability.calls.model_calls import ModelCall

LOOPS = frozenset({"epochs", "n", "n_operands", "n_layers", "n_kv_heads"})


def _attach(model: Any, routers: Any = None, **given: Any) -> None:
    s.attach_lime(model, routers, **given).detach()


def _train(tokens: Any, **given: Any) -> Any:
    trained = new_model()
    return s.train_language_model(
        trained, tokens, max_steps=given.pop("max_steps", 1), show_progress=False, **given
    )


def _circuits(**given: Any) -> Any:
    arguments: dict[str, Any] = {
        "texts": tokens().repeat(4, 1),
        "min_count": 1,
        "context_size": 8,
    } | given
    with s.attach_lime(model(), initial="random") as routers:
        return s.depthwise_circuits(model(), routers, **arguments, show_progress=False)


def _call(name: str, function: Any, given: Any, /, **kinds: w.Kind) -> ModelCall:
    return ModelCall(name, function, given, kinds, LOOPS & set(kinds))


def calls() -> list[ModelCall]:
    """Give every call."""
    return [
        _call(
            "attach_lime",
            _attach,
            lambda: {"model": model()},
            model=w.NOTHING,
            routers=w.NONE,
            initial=w.NOTHING,
            seed=w.SEED - w.kind("huge"),
        ),
        _call(
            "LimeRouters",
            s.LimeRouters,
            lambda: {"n_layers": 2, "n_kv_heads": 2},
            n_layers=w.COUNT,
            n_kv_heads=w.COUNT,
            initial=w.NOTHING,
            seed=w.SEED - w.kind("huge"),
        ),
        _call(
            "LimeRouters.set_weights",
            lambda weights: s.LimeRouters(2, 2).set_weights(weights),
            dict,
            weights=w.kind("{}"),
        ),
        _call(
            "train_language_model",
            _train,
            lambda: {"tokens": tokens()},
            tokens=w.NOTHING,
            loss_mask=w.NONE,
            routers=w.NONE,
            trained=w.NOTHING,
            epochs=w.POSITIVE,
            max_steps=w.COUNT | w.NONE,
            batch_size=w.COUNT,
            lr=w.POSITIVE,
            router_lr=w.POSITIVE,
            weight_decay=w.NOT_NEGATIVE,
            warmup=w.kind("0", "0.5", "numpy 0.5"),
            final_lr=w.kind("0", "0.5", "numpy 0.5"),
            clip=w.POSITIVE | w.NONE,
            micro_batch_size=w.COUNT | w.NONE,
            autocast=w.FLAG,
            seed=w.SEED,
            validation=w.NONE,
            validate_every=w.kind("0"),
            checkpoint_every=w.COUNT,
            folder=w.NAME | w.NONE,
        ),
        _call(
            "language_model_loss",
            s.language_model_loss,
            lambda: {"model": model(), "tokens": tokens()},
            model=w.NOTHING,
            tokens=w.NOTHING,
            loss_mask=w.NONE,
            batch_size=w.COUNT,
            autocast=w.FLAG,
        ),
        _call(
            "arithmetic_examples",
            s.arithmetic_examples,
            lambda: {"n_operands": 3, "n": 4},
            n_operands=w.kind("2", "numpy 2", "tensor 2"),
            n=w.COUNT,
            modulus=w.kind("2", "numpy 2", "tensor 2"),
            seed=w.SEED,
            distinct_from=w.NONE,
        ),
        _call(
            "ArithmeticVocabulary",
            s.lime.arithmetic.ArithmeticVocabulary,
            dict,
            modulus=w.kind("2", "numpy 2", "tensor 2"),
        ),
        _call(
            "router_map",
            s.router_map,
            lambda: {"routers": s.LimeRouters(2, 2)},
            routers=w.NOTHING,
            off_diagonal=w.FLAG,
        ),
        _call(
            "depthwise_circuits",
            _circuits,
            dict,
            texts=w.NOTHING,
            top_k=w.COUNT,
            own_layer=w.FLAG,
            tokens_by=w.NOTHING,
            tokens_per_circuit=w.COUNT,
            contexts_per_circuit=w.COUNT,
            min_count=w.COUNT,
            context_size=w.COUNT,
            window=w.COUNT,
            max_tokens=w.COUNT,
            batch_size=w.COUNT,
            autocast=w.FLAG,
            seed=w.SEED,
        ),
        _call(
            "embedded_texts",
            s.embedded_texts,
            lambda: {"name": "encyclopedia"},
            name=w.NOTHING,
            split=w.NOTHING,
        ),
        _call("load_embedded_model", s.load_embedded_model, dict, kind=w.NOTHING),
    ]
