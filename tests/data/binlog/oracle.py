"""Reads mariadb-binlog's text and writes one line for each whole transaction: begin end gtid last-event.

A transaction is taken to reach to the next GTID, rotation, stop, checkpoint or the end, whatever its events are; so this
does not know what coffer knows. The last one of a file that ends without Rotate or Stop counts if its last event ends it.
"""
import os
import re
import sys

events = []
at = None
text = []
for line in sys.stdin.buffer.read().decode("utf-8", "replace").splitlines():
    if match := re.match(r"# at (\d+)$", line):
        at = int(match[1])
    elif at is not None and (match := re.match(r"#\d{6} .*?end_log_pos (\d+)(?: CRC32 0x[0-9a-f]+)?\s*(.*)", line)):
        events.append([at, int(match[1]), match[2].split("\t")[0].strip(), []])
        at = None
    elif events:
        events[-1][3].append(line)
BETWEEN = ("GTID", "Rotate", "Stop", "Binlog checkpoint", "Gtid list", "Start:")
gtid = None
groups = []
for begin, end, what, lines in events:
    if what.startswith(BETWEEN):
        gtid = None
    if what.startswith("GTID"):
        gtid = what.split()[1]
        groups.append([begin, end, gtid, what, lines])
    elif gtid:
        groups[-1][1:2] = [end]
        groups[-1][3:] = [what, lines]
closed = events[-1][2].startswith(("Rotate", "Stop"))
if not closed and groups and not groups[-1][3].startswith(("Xid", "XID", "Query")):
    groups.pop()
for begin, end, gtid, what, _ in groups:
    print(begin, end, gtid, what.split()[0] if what else "-")
