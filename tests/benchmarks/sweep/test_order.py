"""Jobs of different length are packed: the longest first."""

import heapq

from benchmarks.sweep.order import longest_first, planned_works


def makespan(seconds, machines):
    """When the last job ends, if each machine takes the next one of the list as it is free."""
    free = [0.0] * machines
    for one in seconds:
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free)


def test_a_sweep_does_not_end_with_its_longest_job_alone():
    seconds = [1, 1, 1, 1, 1, 1, 6]
    packed = [seconds[number] for number in longest_first(seconds)]
    assert makespan(seconds, 2) == 9 and makespan(packed, 2) == 6


def test_grahams_worst_case_on_two_machines_ends_a_sixth_after_the_best():
    seconds = [
        3,
        3,
        2,
        2,
        2,
    ]  # the best ends at 6: 3 + 3 and 2 + 2 + 2; the bound is 4/3 - 1/(3 * 2)
    assert makespan([seconds[i] for i in longest_first(seconds)], 2) == 7


def test_equal_jobs_stay_in_order_and_unknown_work_comes_first():
    assert longest_first([2.0, 2.0, float("inf"), 2.0]) == [2, 0, 1, 3]


def test_seeds_share_a_plan_and_what_is_refused_is_last():
    asked = []

    def price(options):
        asked.append(options["width"])
        if options["width"] < 0:
            raise ValueError("refused")
        return float(options["width"])

    runs = [{"label": "a", "seed": seed, "width": width} for width in (3, 8, -1) for seed in (0, 1)]
    works = planned_works([*runs, None], price)
    assert works == [3, 3, 8, 8, 0, 0, 0] and asked == [3, 8, -1]
    assert longest_first(works)[:4] == [2, 3, 0, 1]
