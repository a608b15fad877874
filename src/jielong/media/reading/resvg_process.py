"""The process that draws SVG with resvg: a drawing may overflow its stack, or need all memory and time, without harm to others.

A request on standard input is :data:`REQUEST` (columns, rows, whether fonts are needed, the length of the drawing) and the drawing; the
answer is :data:`ANSWER` (whether it was drawn, a length) and the PNG or the reason. It imports nothing of Jielong, so that it starts fast.
"""

from __future__ import annotations

import struct
import sys

REQUEST, ANSWER = struct.Struct("<II?Q"), struct.Struct("<?Q")
SECONDS = 10.0
"""Processor time of one drawing."""


def serve(memory: int) -> None:
    """Answer requests until standard input ends, in at most ``memory`` bytes (not limited on Windows, nor is time)."""
    import signal

    import resvg_py

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the input is the end: an interrupted run finishes its picture
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while header := sys.stdin.buffer.read(REQUEST.size):
        columns, rows, fonts, length = REQUEST.unpack(header)
        drawing = sys.stdin.buffer.read(length)
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            # Without 96 dots per inch, lengths in millimetres are nothing.
            png = resvg_py.svg_to_bytes(drawing.decode(), width=columns, height=rows, dpi=96, skip_system_fonts=not fonts)
            drawn, answer = True, bytes(png)
        except Exception as error:
            drawn, answer = False, str(error).encode()
        sys.stdout.buffer.write(ANSWER.pack(drawn, len(answer)) + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
