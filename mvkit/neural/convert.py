"""Convert a published pickle to a neural file: one pass over the responses, bounded memory, verified."""

from __future__ import annotations

import datetime
import logging
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from mvkit import atomic
from mvkit.errors import DataError
from mvkit.naming import unknown_name
from mvkit.neural import layout, published_contents
from mvkit.neural.chunks import ChunkWriter, Offset, compressing
from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.layout_reading import reading
from mvkit.neural.pickle_source import naming
from mvkit.neural.pickle_stream import ElementReader, streaming
from mvkit.neural.published import PublishedRecording, read_pickle_structure
from mvkit.neural.response_encoding import CountEncoder, Encoder, FloatEncoder, NotCountsError
from mvkit.neural.response_streaming import StreamPlan, plan_stream, stream_responses
from mvkit.neural.verification import verify

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes
    ----------
    dataset
        ``neuropixels`` or ``calcium``.
    source, source_sha256, source_bytes
        The pickle as it lies on disk.
    target
        The neural file.
    n_trials, n_images, n_bins, n_units
        Sizes; n_bins is None without a time axis.
    stored_as
        ``uint8 counts``, ``float32`` or ``float64``.
    remark
        Why the usual way of storing was not possible; empty otherwise.
    missing_fraction
        Share of responses that are missing (NaN).
    seconds
        Time taken.
    """

    dataset: str
    source: Path
    source_sha256: str
    source_bytes: int
    target: Path
    n_trials: int
    n_images: int
    n_bins: int | None
    n_units: int
    stored_as: str
    remark: str
    missing_fraction: float
    seconds: float


def convert_pickle(
    source: Path,
    target: Path,
    *,
    dataset: str,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a published pickle to a neural file.

    Nothing that the pickle names is run or imported. Neuropixels rates become
    uint8 spike counts if every one is exactly a whole count per 10 ms bin, and
    are otherwise kept as floats, as calcium responses always are. The file is
    read back and compared with what was converted before it appears.

    Parameters
    ----------
    source
        ``.pkl``, ``.pkl.gz`` or ``.pkl.xz``.
    target
        Neural file to create or replace.
    dataset
        ``neuropixels`` (trials, images, time bins, units; spikes/s) or
        ``calcium`` (trials, images, units; dF/F).
    progress
        Called with bytes of the (decompressed) pickle done and in all.

    Returns
    -------
    ConversionReport

    Raises
    ------
    UsageError
        For an unknown dataset.
    DataError
        When the pickle is damaged, cut short, harmful, or of the other
        dataset; or when the neural file cannot be written or differs from it.
    """
    if dataset not in published_contents.HAS_TIME:
        raise unknown_name("published dataset", dataset, published_contents.HAS_TIME)
    report = progress or _silent
    recording = read_pickle_structure(source)
    remark = ""
    with naming(source):
        if dataset == "neuropixels":
            try:
                return _Conversion(recording, target, dataset, report).run(CountEncoder())
            except NotCountsError as error:
                remark = str(error)
                LOGGER.warning("%s: %s; responses are stored as floats", source, remark)
        floats = FloatEncoder(recording.responses.dtype)
        return _Conversion(recording, target, dataset, report, remark).run(floats)


@dataclass(frozen=True)
class _Conversion:
    recording: PublishedRecording
    target: Path
    dataset: str
    progress: Callable[[int, int], None]
    remark: str = ""

    def run(self, encoder: Encoder) -> ConversionReport:
        began = time.monotonic()
        contents = published_contents.contents_of(self.recording, self.dataset, encoder.dtype)
        plan = plan_stream(self.recording, contents)
        self.recording.source.forget()
        with atomic.replacing(self.target) as temporary, compressing() as pool:
            try:
                digests, provenance = self._write(temporary, plan, encoder, pool)
            except (OSError, RuntimeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise DataError(f"{self.target}: not written ({reason}); is the disk full?") from error
            with reading(temporary) as file:
                verify(file, replace(plan.contents, provenance=provenance), digests, pool)
        return ConversionReport(
            dataset=self.dataset,
            source=self.recording.source.path,
            source_sha256=str(provenance["source_sha256"]),
            source_bytes=self.recording.source.file_bytes,
            target=self.target,
            n_trials=len(contents.trials),
            n_images=len(contents.frame_ids),
            n_bins=None if contents.time_s is None else len(contents.time_s),
            n_units=contents.n_units,
            stored_as=str(provenance["stored_as"]),
            remark=self.remark,
            missing_fraction=encoder.n_missing / self.recording.responses.n_elements,
            seconds=time.monotonic() - began,
        )

    def _write(
        self, path: Path, plan: StreamPlan, encoder: Encoder, pool: ThreadPoolExecutor
    ) -> tuple[dict[Offset, bytes], dict[str, object]]:
        source = self.recording.source
        with streaming(source) as stream, layout.creating(path, plan.contents) as stored:
            # Counts are mostly zero and otherwise without pattern. Looking for runs only took
            # 225 MB/s where zlib's usual search took 88, and the result was 12 % smaller.
            strategy = zlib.Z_RLE if plan.contents.holds_counts else zlib.Z_DEFAULT_STRATEGY
            writer = ChunkWriter(stored, pool, strategy=strategy)
            total = source.length or 0
            elements = ElementReader(
                stream, self.recording.responses, lambda done: self.progress(done, total)
            )
            stream_responses(elements, plan, encoder, writer)
            sha256 = stream.finish()
            self.progress(total, total)
            provenance = self._provenance(plan.contents, encoder, sha256)
            layout.record_provenance(stored, provenance)
        return writer.digests, provenance

    def _provenance(self, contents: NeuralFileContents, encoder: Encoder, sha256: str) -> dict[str, object]:
        from mvkit import __version__

        source = self.recording.source
        return {
            "source": source.path.name,
            "source_sha256": sha256,
            "source_bytes": source.file_bytes,
            # Unlike the file's, the same whether it is compressed or not.
            "pickle_bytes": source.length,
            "source_dims": list(self.recording.dims),
            "source_dtype": str(self.recording.responses.dtype),
            "stored_as": "uint8 counts" if contents.holds_counts else str(encoder.dtype),
            "remark": self.remark,
            "unused_coordinates": published_contents.unused_coordinates(self.recording, contents),
            "converted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "mvkit_version": __version__,
        }


def _silent(done: int, total: int) -> None:
    """Show nothing."""
