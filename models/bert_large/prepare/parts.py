"""Parts of `prepare`: independent jobs, on one machine or many, that make one folder of records together.

Every part has a manifest of its own in a hidden folder of the output folder. The part that completes the last file
joins them in `manifest.json`, which has the same bytes as without parts. Nothing coordinates the jobs: if two of them
finish at the same time, both write the same file. A later command without parts joins them too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bert_large.data.folders import PART_FOLDERS
from bert_large.errors import InputError
from bert_large.prepare.manifest import Manifest, check_same_task, read_manifest
from bert_large.prepare.settings import Part
from bert_large.prepare.shards import ShardTask
from bert_large.prepare.text_files import Log
from bert_large.storage.atomic import remove_partial_files, remove_tree
from bert_large.storage.lock import FolderLock
from bert_large.storage.output_folder import make_folder


@contextlib.contextmanager
def manifest_folder(output_dir: Path, part: Part | None, log: Log) -> Iterator[Path]:
    """Lock the output folder, and yield the folder for the manifest of a part, or of all files.

    Parts may run at the same time, but each part once. All files at once exclude any part.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(FolderLock(output_dir, "--output-dir", log, shared=part is not None))
        if part is None:
            yield output_dir
            return
        folder = output_dir / f".part-{part.number}-of-{part.count}"
        make_folder(folder)
        stack.enter_context(FolderLock(folder, f"the folder of --part {part}", log))
        yield folder


def read_all_manifests(output_dir: Path) -> Manifest | None:
    """Return what `manifest.json` and the manifests of all parts record, or None if there are none.

    Raises `InputError` if they have different settings.
    """
    found = read_manifest(output_dir)
    for folder in sorted(output_dir.glob(PART_FOLDERS)):
        part = read_manifest(folder)
        if part is None:
            continue
        if found is None:
            found = Manifest(part.settings, {})
        check_same_task(folder, found.settings, part.settings)
        found.inputs |= part.inputs
        found.outputs |= part.outputs
    return found


def join_manifests(output_dir: Path, tasks: Sequence[ShardTask], log: Log) -> bool:
    """Write `manifest.json` if the files of all `tasks` are complete; return whether they are."""
    manifest = read_all_manifests(output_dir)
    assert manifest is not None  # this part has written one
    complete = [task for task in tasks if task.output_file.name in manifest.outputs]
    if len(complete) < len(tasks):
        log(f"{len(complete)} of {len(tasks)} files are complete; the last part to finish writes the manifest")
        return False
    manifest.inputs = {task.input_file.name: manifest.inputs[task.input_file.name] for task in tasks}
    manifest.outputs = {task.output_file.name: manifest.outputs[task.output_file.name] for task in tasks}
    remove_partial_files(output_dir)
    manifest.write(output_dir)
    log(f"all {len(tasks)} files are complete; manifest written")
    return True


def remove_part_folders(output_dir: Path) -> None:
    """Delete the folders of all parts that are not running."""
    for folder in output_dir.glob(PART_FOLDERS):
        with contextlib.suppress(InputError), FolderLock(folder, "the folder of a part", lambda text: None):
            remove_tree(folder, ignore_errors=True)
