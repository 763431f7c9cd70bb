"""The commands of docs/guides/codes.md, on files in the layout of each code.

What comes out are the mergers that are in the file, and a flow that is trained on them draws such.
"""

import glob
import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from data_prep.dataset import SPLITS, Dataset
from data_prep.stream import read_split
from hpo.cli import main
from models import Emulator
from models.config import FlowConfig, TrainConfig
from models.training.train import train

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "guides" / "codes.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
BLOCK = r"<!-- run by tests/data_prep/test_code_guide.py -->\n```console\n\$ (hpo (?:.*\\\n)*.+)\n"
GRID = [(Z, alpha) for Z in (0.0002, 0.001, 0.004) for alpha in (0.5, 1.0, 3.0)]
MERGERS = 30
"""Of each cell."""

pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")


def mergers(rng) -> pd.DataFrame:
    rows = [(Z, alpha) for Z, alpha in GRID for _ in range(MERGERS)]
    table = pd.DataFrame(rows, columns=["Z", "alpha"])
    table["m1"] = 5 + rng.gamma(2, 5, len(table))
    table["m2"] = 5 + rng.gamma(2, 5, len(table))
    return table.sample(frac=1, random_state=1, ignore_index=True)


def sevn(table, rng, folder):
    for (Z, alpha), cell in table.groupby(["Z", "alpha"]):
        other = cell.sample(20, random_state=1).assign(types=-1, m1=0.0)
        unbound = cell.sample(20, random_state=2).assign(types=4, m1=1.3)
        rows = pd.concat([cell.assign(types=6, a=10.0), other, unbound])
        written = pd.DataFrame(
            {
                "ID": range(len(rows)),
                "name": [f"0_{k}" for k in range(len(rows))],
                "BWorldtime": 8.3,
                "Mass_0": rows["m1"],
                "RemnantType_0": rows["types"],
                "Mass_1": rows["m2"],
                "RemnantType_1": 6,
                "Semimajor": rows["a"],
                "GWtime": rows["a"] * 100,
            }
        )
        place = folder / f"sevn_output_Z{Z}A{alpha:g}"
        place.mkdir()
        written.sample(frac=1, random_state=3).to_csv(place / "output_0.csv", index=False)


def cosmic(table, rng, folder):
    """As cosmic-pop writes it: a file for each metallicity, appended to in steps."""
    for Z, rows in table.groupby("Z"):
        path = folder / f"dat_kstar1_14_kstar2_14_SFstart_13700.0_metallicity_{Z}.h5"
        rows, steps = rows.reset_index(drop=True), 3
        number = np.repeat(rows.index, steps)
        step = np.tile(np.arange(steps), len(rows))
        bpp = pd.DataFrame(
            {
                "tphys": [0.0, 5.0, 60.0] * len(rows),
                "mass_1": rows["m1"].to_numpy()[number] + 20 * (step == 0),
                "mass_2": rows["m2"].to_numpy()[number] + 20 * (step == 0),
                "kstar_1": np.where(step == 0, 1, 14),
                "kstar_2": np.where(step == 0, 1, 14),
                "sep": [100.0, 5.0, 2.0] * len(rows),
                "ecc": 0.0,
                "evol_type": [1, 2, 6] * len(rows),
                "bin_num": number,
            },
            index=number,
        )
        initial = pd.DataFrame(
            {"metallicity": Z, "alpha1_0": rows["alpha"], "alpha1_1": 1.0, "bin_num": rows.index}
        )
        with pd.HDFStore(path) as store:
            for half in (bpp[bpp["bin_num"] < 40], bpp[bpp["bin_num"] >= 40]):
                store.append("bpp", half)
                store.append("bcm", half.iloc[::steps])
            store.append("initC", initial.set_index("bin_num", drop=False))
            store.append("mass_stars", pd.DataFrame([1e5]))
        with h5py.File(path, "a") as file:
            file["config"] = "{}"


def compas(table, rng, folder):
    rows = len(table)
    seeds = 1_700_000_000 + rng.permutation(5 * rows)
    pairs = {"Stellar_Type(1)": 14, "Stellar_Type(2)": 14, "Merges_Hubble_Time": 1}
    good = pd.DataFrame(pairs, index=table.index)
    pulsars = good.sample(40, random_state=1).assign(**{"Stellar_Type(2)": 13})
    wide = good.sample(40, random_state=2).assign(Merges_Hubble_Time=0)
    kinds = pd.concat([good, pulsars, wide])
    found = table.loc[kinds.index].reset_index(drop=True)
    groups = {
        "BSE_Double_Compact_Objects": {
            "SEED": ("-", seeds[: len(found)].astype("u8")),
            "Mass(1)": ("Msol", found["m1"]),
            "Mass(2)": ("Msol", found["m2"]),
            "mixture_weight": ("-", rng.uniform(0.2, 2, len(found))),
            **{name: ("State", kinds[name].to_numpy("i4")) for name in pairs},
        },
        "BSE_System_Parameters": {
            "SEED": ("-", seeds[::-1].astype("u8")),
            "Metallicity@ZAMS(1)": ("-", np.resize(found["Z"], len(seeds))[::-1]),
            "CE_Alpha": ("-", np.resize(found["alpha"], len(seeds))[::-1]),
        },
        "Run_Details": {"COMPAS-Version": ("-", np.array([b"03.01.00"]))},
    }
    with h5py.File(folder / "COMPAS_Output.h5", "w") as file:
        for group, columns in groups.items():
            for name, (unit, values) in columns.items():
                options = {"chunks": (100,), "compression": "gzip"} if len(values) > 100 else {}
                place = file.require_group(group).create_dataset(name, data=values, **options)
                place.attrs["units"] = np.bytes_(unit)


def mobse(table, rng, folder):
    names = {"m1": "m_comp_1", "m2": "m_comp_2"}
    texts = table.astype({"Z": str, "alpha": str}).astype({"Z": "category", "alpha": "category"})
    texts.rename(columns=names).to_parquet(folder / "all_BHBs.parquet")


def posydon(table, rng, folder):
    rows = len(table)
    spins = np.where(rng.random(rows) < 0.7, 0, rng.uniform(-0.5, 0.9, rows))
    population = pd.DataFrame(
        {
            "time": rng.uniform(3, 20, rows),
            "metallicity": table["Z"] / 0.0142,
            "S1_state": "BH",
            "S2_state": "BH",
            "S1_mass": table["m1"],
            "S2_mass": table["m2"],
            "chi_eff": spins,
            "channel": "ZAMS_oRLO1_CC1_oRLO2_CC2_END",
        }
    )
    with pd.HDFStore(folder / "BBH_contact.h5", complib="zlib", complevel=5) as store:
        store.append("transients/BBH", population, data_columns=["channel"])
        store.append("formation_channels", population[["channel"]])
        store["mass_per_metallicity"] = pd.DataFrame({"simulated_mass": [1e6]}, index=[0.1])


def amaze(table, rng, folder):
    rows = len(table)
    grid = {"chi_b": np.resize([0.0, 0.1, 0.5], rows), "alphaCE": np.resize([0.2, 1.0], rows)}
    drawn = {"q": rng.uniform(0.3, 1, rows), "chieff": rng.uniform(0, 0.7, rows)}
    more = {"z": rng.gamma(2, 0.5, rows), "weight": rng.gamma(1, 1, rows), "pdet_o3": 0.5}
    table = table.assign(mchirp=table["m1"], **grid, **drawn, **more).drop(columns=["Z", "alpha"])
    table.to_parquet(folder / "CE.parquet")


CODES = {
    "SEVN": sevn,
    "COSMIC": cosmic,
    "COMPAS": compas,
    "MOBSE": mobse,
    "POSYDON": posydon,
    "AMAZE": amaze,
}


def test_every_code_has_its_section():
    assert list(SECTIONS) == list(CODES)


@pytest.mark.parametrize("code", CODES)
def test_the_command_of_a_code_gives_its_mergers_and_an_emulator(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    table = mergers(rng)
    CODES[code](table, rng, tmp_path)
    (line,) = re.findall(BLOCK, SECTIONS[code])
    words = [
        each
        for word in shlex.split(line.replace("\\\n", ""))[1:]
        for each in sorted(glob.glob(word)) or [word]
    ]

    result = CliRunner().invoke(main, words)

    assert result.exit_code == 0, result.output
    prepared = Path(words[words.index("--out") + 1])
    dataset = Dataset.read(prepared)
    assert sum(dataset.rows.values()) == len(GRID) * MERGERS
    assert not any("is no known name" in note for note in dataset.notes)
    rows = np.vstack([np.column_stack(read_split(prepared, part).arrays) for part in SPLITS])
    if code not in ("POSYDON", "AMAZE"):  # which have other columns, too
        known = table[["m1", "m2", "Z", "alpha"]].to_numpy("f4")
        np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(known[:, 0]))
        assert {*map(tuple, rows[:, :4].tolist())} == {*map(tuple, known.tolist())}
    assert {column.unit for column in dataset.event_columns} <= {"Msun", ""}
    assert dataset.event_columns[0].positive

    config = TrainConfig(epochs=1, batch_size=64, device="cpu")
    flow, _ = train(prepared, FlowConfig(blocks=1, hidden=8), config)
    names = [column.name for column in dataset.condition_columns]
    point = dict(zip(names, dataset.cells[0].conditions, strict=True))
    drawn = Emulator(flow).sample(500, seed=1, **point)
    for column, values in zip(dataset.event_columns, drawn.T, strict=True):
        low, high = column.limits
        assert (values > 0).all() if column.positive else ((low <= values) & (values <= high)).all()
