"""Files and folders that are written whole or not at all or read within bounds, tensors in them, locks, checksums."""

from codecdiff.files.documents import (
    BadDocument,
    check_schema,
    is_unicode,
    missing_file,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_text,
    read_yaml,
    require_file,
)
from codecdiff.files.hashes import DamagedFile, cached_checksum, checksum, sha256
from codecdiff.files.locks import POLL_SECONDS, FolderLocked, lock_folder, lock_path, try_lock
from codecdiff.files.parquet_size import check_parquet_size
from codecdiff.files.tables import read_parquet, write_parquet
from codecdiff.files.tensors import read_safetensors, save_tensors, write_safetensors
from codecdiff.files.writing import (
    atomic_folder,
    atomic_write,
    atomic_write_text,
    clear_leftovers,
    delete_folder,
    link_or_copy,
    make_folder,
    require_writable,
    sync,
)

__all__ = [
    "POLL_SECONDS",
    "BadDocument",
    "DamagedFile",
    "FolderLocked",
    "atomic_folder",
    "atomic_write",
    "atomic_write_text",
    "cached_checksum",
    "check_parquet_size",
    "check_schema",
    "checksum",
    "clear_leftovers",
    "delete_folder",
    "is_unicode",
    "link_or_copy",
    "lock_folder",
    "lock_path",
    "make_folder",
    "missing_file",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_parquet",
    "read_safetensors",
    "read_text",
    "read_yaml",
    "require_file",
    "require_writable",
    "save_tensors",
    "sha256",
    "sync",
    "try_lock",
    "write_parquet",
    "write_safetensors",
]
