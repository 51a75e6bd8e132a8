"""Stand in for get-pip.py: pip as Python itself carries it, then the packages that the caller named."""
# SPDX-License-Identifier: GPL-3.0-or-later

import subprocess
import sys

subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=False).returncode)
