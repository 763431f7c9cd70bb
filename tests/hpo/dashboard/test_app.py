"""The Dash application, before anybody looks at it."""

import importlib.util
import subprocess
import sys


def test_pandas_is_loaded_before_there_are_threads_to_find_it_half_loaded(tmp_path):
    probe = (
        "import sys, pathlib; from hpo.dashboard import app, catalog;"
        "app.create(catalog.Catalog(pathlib.Path('.'))); print('pandas' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True
    )

    installed = importlib.util.find_spec("pandas") is not None
    assert done.stdout.strip() == str(installed), done.stderr
