"""WebDataset: tar shards. The files of one sample follow each other and share the name before the first dot."""

from __future__ import annotations

import io
import tarfile

from raypipe.export.samples import ExportSample, json_line


class TarShard:
    """One shard in memory: ``KEY.jpg``, ``KEY.cls`` if there is a class, ``KEY.json``. The bytes are reproducible."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, sample: ExportSample) -> None:
        """Append a picture and its metadata."""
        self._member(sample.file_name, sample.image)
        if sample.code is not None:
            self._member(f"{sample.key}.cls", str(sample.code).encode())
        self._member(f"{sample.key}.json", json_line(sample.metadata_dict()))

    def _member(self, name: str, data: bytes) -> None:
        # A new TarInfo has mtime, uid and gid 0 and no user names, so the bytes do not vary.
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def finish(self) -> memoryview:
        """The bytes of the whole file."""
        self._tar.close()
        return self._buffer.getbuffer()
