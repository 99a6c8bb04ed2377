"""``python -m onnxq`` is the command ``onnxq``."""

import os
import subprocess
import sys

from ._command import Error, binary


def main() -> int:
    """Runs the command in the place of this process, where the system can do that."""
    try:
        command = [str(binary()), *sys.argv[1:]]
    except Error as error:
        print(f"onnxq: error: {error}", file=sys.stderr)
        return 2
    if os.name != "nt":
        os.execv(command[0], command)
    return subprocess.run(command, check=False).returncode


sys.exit(main())
