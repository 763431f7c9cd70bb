"""What `benchmarks/flow.py` prints: a table of each data set, and whether its aims are met.

Array names end in their axes:
    S seeds    N rows
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import rivals
from flow_data import COSMIC, KNOWN, LAWS, PEAK, TITLES, truth_of
from flow_estimates import Estimate, Floats, mixed
from flow_jobs import HELD_OUT, NORMAL, OURS, Job
from flow_results import Line, Results
from flow_runs import in_cell

from data_prep.stream import read_split

TEST, BETWEEN = "test_N", "between_N"
PLACES = {TEST: "on the grid", BETWEEN: "between cells"}
RATIO_AIMS = {KNOWN: 0.3, PEAK: 0.25}
LONG_AIM, SINGLE_AIM, MIXED_AIM, KEPT_OUT_AIM = 0.005, 4.215, 4.200, 0.02
SPEEDS = ("log_prob_one", "log_prob_many", "samples_one", "samples_many")
SPEED_AIM = 1e6


class Report:
    """The trainings of one data set that are done."""

    def __init__(self, data: str, jobs: Sequence[Job], seconds: float, results: Results) -> None:
        self.data, self.seconds, self.results = data, seconds, results
        done = {line["digest"]: line for line in results.lines() if "digest" in line}
        fingerprint = results.fingerprint(data)
        digests = [(job, job.digest(fingerprint)) for job in jobs if job.data == data]
        self.done = [(job, done[digest]) for job, digest in digests if digest in done]
        self.truth = truth_of(data, results.folders[data])
        self.by_flow: dict[str, list[Line]] = {}
        for job, line in self.done:
            if job.plain and job.seconds == seconds:
                self.by_flow.setdefault(job.flow, []).append(line)

    def show(self) -> None:
        if not self.by_flow:
            print(f"\n{TITLES[self.data]}: nothing is done yet")
            return
        self._table()
        if self.data in LAWS:
            self._ratios()
            self._long()
        else:
            self._cosmic()

    def losses_SN(self, lines: Sequence[Line], place: str = TEST) -> Floats:
        """NLL of each row by each seed, over the true one where that is known."""
        log_prob_SN = np.stack([self.results.array_N(line, place) for line in lines])
        truth_N = np.zeros(log_prob_SN.shape[1])
        if self.truth is not None:
            truth_N = self.truth.test_N if place == TEST else self.truth.between_N
        return truth_N - log_prob_SN

    def _table(self) -> None:
        known = self.data in LAWS
        print(
            f"\n{TITLES[self.data]}: {self.seconds:g} s of one thread's processor time; "
            f"+- of seeds, of rows"
        )
        head = "excess NLL on the grid" if known else "test NLL"
        between = "between cells" if known else ""
        print(f"{'':18}{head:>26}{between:>26}{'seeds':>6}{'took':>6}{'rows/s':>9}{'numbers':>12}")
        for flow, lines in self.by_flow.items():
            found = [spread(Estimate.of(self.losses_SN(lines)))]
            found.append(spread(Estimate.of(self.losses_SN(lines, BETWEEN))) if known else "")
            print(
                f"{flow:18}{found[0]:>26}{found[1]:>26}{len(lines):6}{median(lines, 'took_s'):6.0f}"
                f"{median(lines, 'rows_per_s'):9,.0f}{median(lines, 'parameters'):12,.0f}"
            )
        if self.truth is not None:
            print(f"true NLL of the test rows: {-self.truth.test_N.mean():.4f}")

    def _ratios(self) -> None:
        """The excess of ours over that of the best tuned rival."""
        others = {flow: lines for flow, lines in self.by_flow.items() if flow in rivals.TUNED}
        for place, words in PLACES.items():
            losses = {flow: self.losses_SN(lines, place) for flow, lines in others.items()}
            if not losses:
                continue
            best = min(losses, key=lambda flow: losses[flow].mean())
            for flow in (OURS, NORMAL):
                if flow in self.by_flow:
                    ratio = Estimate.ratio(self.losses_SN(self.by_flow[flow], place), losses[best])
                    what = f"{flow}: excess {words} / that of {best}"
                    verdict(what, ratio, "<=", RATIO_AIMS[self.data] if flow == OURS else None)

    def _long(self) -> None:
        for job, line in self.done:
            if job.plain and job.flow == OURS and job.seconds > self.seconds:
                found = Estimate.of(self.losses_SN([line]))
                verdict(f"ours: excess on the grid after {job.seconds:g} s", found, "<=", LONG_AIM)
                found = Estimate.of(self.losses_SN([line], BETWEEN))
                verdict(f"ours: excess between cells after {job.seconds:g} s", found, "<=", None)

    def _cosmic(self) -> None:
        if OURS in self.by_flow:
            found = Estimate.of(self.losses_SN(self.by_flow[OURS]))
            verdict("ours: test NLL", found, "<=", SINGLE_AIM)
        for flow in (NORMAL, *rivals.TUNED):
            if flow in self.by_flow and OURS in self.by_flow:
                both = [self.losses_SN(self.by_flow[name]) for name in (OURS, flow)]
                count = min(map(len, both))
                gap = Estimate.of(both[0][:count] - both[1][:count])
                verdict(f"ours: test NLL - that of {flow}", gap, "<=", None)
        members = {
            "seeds": [line for job, line in self.done if job.flow == OURS and job.plain],
            "bagged": [line for job, line in self.done if job.bag],
        }
        for kind, lines in members.items():
            if len(lines) > 1:
                together = Estimate.of(-mixed(-self.losses_SN(lines))[None])
                verdict(f"ours: {len(lines)} members ({kind}) mixed", together, "<=", MIXED_AIM)
        for flow in (OURS, rivals.NSF):
            self._kept_out(flow)

    def _kept_out(self, flow: str) -> None:
        """How much worse a flow is in cells that it never saw than one that saw them."""
        test = read_split(self.results.folders[COSMIC], "test")
        gaps = []
        for job, line in self.done:
            twin = replace(job, held_out=False)
            seen = [other for mate, other in self.done if mate == twin]
            if job.flow == flow and job.held_out and seen:
                unseen_N, seen_N = self.losses_SN([line, *seen])
                worse_N = unseen_N - seen_N
                gaps.append(np.mean([worse_N[in_cell(test, c)].mean() for c in HELD_OUT]))
        if gaps:
            error = float(np.std(gaps, ddof=1) / len(gaps) ** 0.5) if len(gaps) > 1 else np.nan
            what = f"{flow}: NLL in cells kept out - with them"
            found = Estimate(float(np.mean(gaps)), error, 0.0)
            verdict(what, found, "<=", KEPT_OUT_AIM if flow == OURS else None)


def show_speeds(jobs: Sequence[Job], results: Results) -> None:
    """Events per second in use."""
    done = {line["digest"]: line for line in results.lines() if "digest" in line}
    speeds = {
        job.flow: done[digest]
        for job in jobs
        if job.speed and (digest := job.digest(results.fingerprint(job.data))) in done
    }
    if not speeds:
        return
    print("\nin use, events/s on 1 and on 2 threads; at one (Z, alpha), and each at its own")
    print(f"{'':18}" + "".join(f"{name.replace('_', ', '):>24}" for name in SPEEDS))
    for flow, line in speeds.items():
        pairs = [f"{line[f'{name}_1']:,.0f} {line[f'{name}_2']:,.0f}" for name in SPEEDS]
        print(f"{flow:18}" + "".join(f"{pair:>24}" for pair in pairs))
    if OURS in speeds:
        for name, words in (("log_prob_one", "log densities"), ("samples_one", "samples")):
            found = Estimate(speeds[OURS][f"{name}_2"], np.nan, 0.0)
            verdict(f"ours: {words}/s at one (Z, alpha), 2 threads", found, ">=", SPEED_AIM)


def verdict(what: str, found: Estimate, sign: str, aim: float | None) -> None:
    """One line that says what was found, and whether an aim is met."""
    error = f" +- {found.error:.2g}" if found.error else ""
    if aim is None:
        print(f"       {what}: {found.value:.4g}{error}")
        return
    met = found.value >= aim if sign == ">=" else found.value <= aim
    print(f"{'met   ' if met else 'MISSED'} {what}: {found.value:.4g}{error} (aim {sign} {aim:g})")


def spread(found: Estimate) -> str:
    """A figure with both of its errors."""
    seeds = "-" if np.isnan(found.seeds) else f"{found.seeds:.4f}"
    return f"{found.value:.4f} +- {seeds}, {found.rows:.4f}"


def median(lines: Sequence[Line], name: str) -> float:
    return statistics.median(line[name] for line in lines)
