"""kNN as a test loop, so that ``tools/test.py`` and any evaluator can run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.runner import Runner, TestLoop

from ..evaluation import FeatureExtractor, Pool, knn_scores
from ..registry import register
from ..utils.model_state import unwrap_model
from ..weights import load_encoder


@register("loop")
class KNNLoop(TestLoop):
    """Labels the test images by their nearest neighbours in another set.

    The votes go to the evaluator as ``pred_score``, so mmpretrain's ``Accuracy`` and
    its like apply.

    Args:
        runner: The runner. What it loads is loaded once more, strictly: MMEngine would
            judge random weights if the checkpoint's layout is another one.
        dataloader: The images to be judged.
        evaluator: The evaluator.
        bank_dataloader: The neighbours, in order (``DefaultSampler(shuffle=False)``).
        k: Number of neighbours.
        temperature: As for :func:`saim_mm.evaluation.knn_scores`.
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).
        final_norm: As for :class:`saim_mm.evaluation.FeatureExtractor`.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        bank_dataloader: dict[str, Any],
        k: int = 20,
        temperature: float = 0.07,
        pool: Pool = "avg",
        final_norm: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator)
        self.bank_dataloader = runner.build_dataloader(bank_dataloader)
        self.k = k
        self.temperature = temperature
        model = unwrap_model(runner.model)
        self.extractor = FeatureExtractor(
            model.backbone, model.data_preprocessor, pool, final_norm
        )

    def run(self) -> dict[str, float]:
        """Extracts the neighbours' features, then runs the test."""
        backbone = self.extractor.backbone
        if self.runner.cfg.get("load_from"):
            load_encoder(backbone, self.runner.cfg.load_from)
        bank = self.extractor.extract_loader(self.bank_dataloader)
        self.bank = bank.to(next(backbone.parameters()).device)
        self.num_classes = int(bank.labels.max()) + 1
        return super().run()

    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Judges one batch."""
        self.runner.call_hook("before_test_iter", batch_idx=idx, data_batch=data_batch)
        queries = self.extractor(data_batch).vectors
        scores = knn_scores(
            queries, self.bank, self.num_classes, self.k, self.temperature
        )
        samples: Sequence[Any] = data_batch["data_samples"]
        for sample, score in zip(samples, scores, strict=True):
            sample.set_pred_score(score)
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook(
            "after_test_iter", batch_idx=idx, data_batch=data_batch, outputs=samples
        )
