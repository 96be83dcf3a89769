"""Keeps of a stream of mariadb-backup the chunks of its small files, as they are."""
import struct
import sys

FILE_BYTES_MAX = 3000
data = sys.stdin.buffer.read()
at, chunks, sizes = 0, [], {}
while at < len(data):
    assert data[at : at + 8] == b"XBSTCK01", at
    kind, path_bytes = data[at + 9 : at + 10], struct.unpack_from("<I", data, at + 10)[0]
    path, end = data[at + 14 : at + 14 + path_bytes], at + 14 + path_bytes
    if kind == b"P":
        length = struct.unpack_from("<Q", data, end)[0]
        sizes[path] = sizes.get(path, 0) + length
        end += 20 + length
    chunks.append((path, data[at:end]))
    at = end
for path, chunk in chunks:
    if sizes.get(path, 0) <= FILE_BYTES_MAX and not path.startswith((b"mysql/", b"sys/", b"performance_schema/")):
        sys.stdout.buffer.write(chunk)
