"""Loading that refuses what it cannot trust."""

from typing import Any

from .errors import CheckpointError


class CheckedLoadingMixin:
    """``from_pretrained`` that raises on missing, unexpected or misshapen tensors instead of warning."""

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[problem]:
                raise CheckpointError(f"{args[0]}: {problem.replace('_', ' ')}: {sorted(info[problem])[:5]}")
        return (model, info) if output_loading_info else model
