"""Reads mysqlbinlog's text and writes one line for each whole transaction: begin end gtid commit-microseconds last-event.

A transaction is taken to reach to the next GTID, rotation, stop or the end, whatever its events are; so this does not know
what coffer knows. The last one of a file that ends without Rotate or Stop counts if its last event ends it.
"""
import re
import sys

events = []
position = 4
for line in sys.stdin.buffer.read().decode("utf-8", "replace").splitlines():
    if match := re.match(r"#\d{6} .*?end_log_pos (\d+)(?: CRC32 0x[0-9a-f]+)?\s*(.*)", line):
        # What a payload event holds is shown behind it with the payload's own end.
        if int(match[1]) > position:
            events.append([position, int(match[1]), match[2].split("\t")[0].strip(), match[2], ""])
            position = int(match[1])
    elif events and (match := re.match(r"SET @@SESSION.GTID_NEXT= '([^']*)'", line)):
        events[-1][4] = match[1].lower()
groups = []
for begin, end, what, line, gtid in events:
    if re.match(r"(GTID|Anonymous_GTID)", what):
        time = re.search(r"immediate_commit_timestamp=(\d+)", line)[1]
        groups.append([begin, end, gtid, time, what])
    elif what.startswith(("Rotate", "Stop", "Previous-GTIDs", "Start:")):
        if what.startswith(("Rotate", "Stop")):
            break
    elif groups:
        groups[-1][1] = end
        groups[-1][4] = what
closed = events[-1][2].startswith(("Rotate", "Stop"))
if not closed and groups and not groups[-1][4].startswith(("Xid", "XID", "Query", "XA", "Transaction_Payload")):
    groups.pop()
for group in groups:
    print(*group[:4], re.split(r"[ :]", group[4])[0])
