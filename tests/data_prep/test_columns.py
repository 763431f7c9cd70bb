"""What a column's name says of it: unit, support, and which names mean the same."""

import shlex
import time

import pytest

from data_prep.columns import Column, pair_of
from data_prep.errors import DataError
from data_prep.names.hints import certain, counterparts, missing
from data_prep.names.known import meaning_of

NAMES = {
    # SEVN, MOBSE, COSMIC, COMPAS, POSYDON, bilby and gwpopulation
    "mass": "Mass_0 Mass_1 mass_1 m1 M2 m_comp_1 Mass(1) S1_mass mass_1_source m1_src mass_zams_1 "
    "m_ZAMS_2 Mass@ZAMS(1) Zams_0 Mzams_1 mBH_2 M",
    "chirp mass": "mchirp chirp_mass M_chirp chirp_mass_source",
    "total mass": "total_mass Mtot m_tot m_merge total_mass_source",
    "mass ratio": "mass_ratio q massRatio",
    "spin": "a_1 a1 S1_spin spin_1 chi_b final_spin spin_magnitude_1",
    "spin component": "chi_1 s1x spin_1z chi1z",
    "effective spin": "chi_eff chieff chiEff Chi_eff",
    "precessing spin": "chi_p",
    "cosine": "cos_tilt_1 cos_theta_jn costilt1",
    "tilt": "tilt_1 S1_spin_orbit_tilt",
    "eccentricity": "eccentricity Eccentricity ecc orb_ecc Eccentricity@DCO e",
    "redshift": "z redshift z_merger z_formation z_events",
    "metallicity": "Z metallicity Metallicity@ZAMS(1) Metallicity1 Zmet zmet Z_ZAMS",
    "common-envelope efficiency": "alpha alpha1 alphaCE CE_Alpha CEalpha alpha1_0",
    "time": "GWtime BWorldtime tphys Time Coalescence_Time t_delay t_inspiral delay_time",
    "separation": "Semimajor Semimajor_ini SemiMajorAxis@DCO sep separation smj_axis",
    "weight": "weight mixture_weight weights",
}
UNKNOWN = (
    "mass_loss_rate log_mass log10_m1 m2_over_m1 mass_type a chi phi_12 log_Z Zsun feh CE "
    "RemnantType_0 Phase_0 ID name SEED bin_num kstar_1 Stellar_Type(1) evol_type f_MT "
    "channel kick_flag lambda"
)


@pytest.mark.parametrize(
    ("quantity", "name"),
    [(quantity, name) for quantity in NAMES for name in NAMES[quantity].split()],
)
def test_the_names_of_the_codes_are_known(quantity, name):
    found = meaning_of(name)

    assert found is not None
    assert found.quantity == quantity


@pytest.mark.parametrize("name", UNKNOWN.split())
def test_a_name_of_something_else_is_not_guessed(name):
    assert meaning_of(name) is None
    assert Column.named(name) == Column(name, "")


@pytest.mark.parametrize(
    ("name", "unit", "support"),
    [
        ("m_comp_1", "Msun", "positive"),
        ("S1_mass", "Msun", "positive"),
        ("mass_ratio", "", "[0, 1]"),
        ("q", "", "[0, 1]"),
        ("chi_eff", "", "[-1, 1]"),
        ("a_1", "", "[0, 1]"),
        ("cos_tilt_2", "", "[-1, 1]"),
        ("eccentricity", "", "[0, 1]"),
        ("redshift", "", "positive"),
        ("Coalescence_Time", "Myr", "positive"),
        ("SemiMajorAxis@DCO", "AU", "positive"),
        ("Semimajor", "Rsun", "positive"),
        ("t_delay", "", "positive"),
        ("orbital_period", "d", "positive"),
        ("v_kick", "km / s", "[0, inf)"),
        ("M1 [Msun]", "Msun", "positive"),
        ("m2_msol", "Msun", "positive"),
        ("t_delay_Gyr", "Gyr", "positive"),
        ("Mass(1) (Msun)", "Msun", "positive"),
        ("separation/AU", "AU", "positive"),
        ("tilt_1_deg", "deg", "real"),
        ("tilt_1", "rad", "[0, 3.14159]"),
        ("x_kpc", "kpc", "real"),
        ("e_d", "", "real"),
    ],
)
def test_a_known_name_brings_unit_and_support(name, unit, support):
    column = Column.named(name)

    assert (column.unit, column.support) == (unit, support)


def test_what_a_user_says_comes_before_what_a_name_means():
    assert Column.named("q", support="positive") == Column("q", "", positive=True)
    assert Column.named("x", support="1:", unit="Msol") == Column("x", "Msun", low=1.0)
    assert Column.named("x", support=":2.5").support == "(-inf, 2.5]"
    assert Column.named("mass_1", support="real").support == "real"
    # An angle in degrees is not bounded by pi.
    assert Column.named("tilt_1", unit="deg").support == "real"


@pytest.mark.parametrize("text", ["", "posit", ":", "0-1", "a:1", "nan:1", "0:inf", "0:1:2"])
def test_a_support_that_is_none_is_refused(text):
    with pytest.raises(DataError, match="write positive, real or LOW:HIGH such as 0:1"):
        Column.named("x", support=text)


def test_a_ratio_is_never_paired_with_a_mass():
    columns = [Column.named(name) for name in ("mass_1", "mass_ratio", "chi_eff", "redshift")]

    assert pair_of(columns) is None


def test_the_two_masses_of_a_binary_are_paired():
    columns = [Column.named(name) for name in ("chieff", "q", "m_comp_1", "m_comp_2")]

    assert pair_of(columns) == (2, 3)


@pytest.mark.parametrize(
    "word", ["_msun", "star1", "form", "zams", "init", "s1", "primary", "comp", "bh"]
)
@pytest.mark.parametrize("head", ["mass", "Z", "z", "cos", "spin", ""])
def test_a_long_name_takes_no_time(head, word):
    begin = time.process_time()

    meaning_of((head + word * 40)[:199] + "!q")

    assert time.process_time() - begin < 0.5


# ---- columns that are not there


SEVN = ["Mass_0", "Mass_1", "Z", "alpha"]
COMPAS = (
    "SEED SemiMajorAxis@DCO Mass(1) Stellar_Type(1) Mass(2) Metallicity@ZAMS(1) CE_Alpha".split()
)


def test_one_missing_star_is_never_taken_for_the_other():
    assert counterparts(["Mass_0"], COMPAS) == {"Mass_0": ["Mass(1)", "Mass(2)"]}

    told = missing("t.csv", ["Mass_0"], COMPAS)
    assert "'Mass(1)' and 'Mass(2)' are as near" in told
    assert "--columns 'Mass(1)=Mass_0' or --columns 'Mass(2)=Mass_0'" in told


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (COMPAS, ["Mass(1)", "Mass(2)", "Metallicity@ZAMS(1)", "CE_Alpha"]),
        # The first star is 1 here, 0 there: case alone would swap them.
        (["mass_1", "mass_2", "metallicity", "alpha1"], None),
        (["m_ZAMS_1", "m_ZAMS_2", "m_comp_2", "m_comp_1", "Zmet", "alphaCE"], ["m_comp_1",
         "m_comp_2", "Zmet", "alphaCE"]),
        (["mass_0", "mass_1", "z", "ALPHA", "met"], ["mass_0", "mass_1", "met", "ALPHA"]),
        (["chirp_mass", "S2_mass", "S1_mass", "metallicity", "alpha_CE", "redshift"],
         ["S1_mass", "S2_mass", "metallicity", "alpha_CE"]),
    ],
)  # fmt: skip
def test_each_star_gets_its_own_column_and_each_quantity_the_name_of_the_code(there, found):
    near = certain(counterparts(SEVN, there))

    assert near == dict(zip(SEVN, found or there, strict=True))


def test_a_column_is_not_proposed_for_two():
    assert certain(counterparts(["Mass_0", "Mass_1"], ["mass_1", "mass_ratio"])) == {}


def test_a_redshift_is_not_proposed_for_a_metallicity():
    assert counterparts(["Z"], ["z", "mass_1"]) == {"Z": []}
    assert counterparts(["z"], ["Z", "redshift"]) == {"z": ["redshift"]}


def test_names_that_are_spelled_as_near_are_all_told():
    assert counterparts(["fallback_0"], ["fallback_1", "fallback_2", "x"]) == {
        "fallback_0": ["fallback_1", "fallback_2"]
    }


def test_several_missing_columns_are_told_at_once_with_what_to_type():
    told = missing("t.csv", SEVN, COMPAS)

    assert told.startswith("t.csv has no columns 'Mass_0', 'Mass_1', 'Z' and 'alpha': ")
    words = shlex.split(told.partition("pass ")[2])
    assert words[1::2] == [
        "Mass(1)=Mass_0", "Mass(2)=Mass_1", "Metallicity@ZAMS(1)=Z", "CE_Alpha=alpha",
    ]  # fmt: skip


def test_an_atom_that_single_precision_makes_of_another_is_refused():
    with pytest.raises(DataError, match="'q' has an atom twice.* 0.3, 0.300000001: name it once"):
        Column("q", "", atoms=(0.3, 0.300000001))


def test_where_nothing_is_near_the_columns_are_listed_once():
    told = missing("t.csv", ["Mass_0", "Z"], ["a", "b"])

    assert told == (
        "t.csv has no columns 'Mass_0' and 'Z': it has a, b; name the right ones with "
        "--columns OLD=NEW"
    )
