"""The fraud scenarios: how often, for how long, and what becomes of them. docs/data.md explains each.

Rates are shares of all transactions, about 1 % together. That is some thirty times the rate of European
cards (0.028 % of their value in 2021: ECB, Report on card fraud 2020 and 2021), so that small data can teach;
the simulator of the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot and Bontempi, 2022) has 0.8 %.
"""

from __future__ import annotations

from dataclasses import dataclass

DAY_HOURS = 24.0


@dataclass(frozen=True)
class Scenario:
    """One kind of episode: `share` of all transactions; `events` that one is expected to have in `hours`.

    `number` is what columns hold; 0 is an honest transaction. `name` is what sim.ground_truth and
    fraud_labels store. Both are for good: a new scenario takes the next number.
    """

    number: int
    name: str
    share: float
    events: float
    hours: float

    def episodes_per_day(self, transactions_per_day: float) -> float:
        """How many episodes begin in a day among so many transactions."""
        return self.share * transactions_per_day / self.events


UNUSUAL_AMOUNT = Scenario(1, "unusual_amount", share=0.0020, events=1.5, hours=12)
COMPROMISED_TERMINAL = Scenario(2, "compromised_terminal", share=0.0030, events=21, hours=14 * DAY_HOURS)
STOLEN_CARD = Scenario(3, "stolen_card", share=0.0025, events=7.5, hours=1)
CARD_NOT_PRESENT = Scenario(4, "card_not_present", share=0.0015, events=4.5, hours=2 * DAY_HOURS)
TWO_COUNTRIES = Scenario(5, "two_countries", share=0.0010, events=1.5, hours=0.75)
# Honest overlap with a stolen card's burst: somebody goes shopping.
SHOPPING_SPREE = Scenario(0, "shopping_spree", share=0.0025, events=5, hours=2)

FRAUDS = (UNUSUAL_AMOUNT, COMPROMISED_TERMINAL, STOLEN_CARD, CARD_NOT_PRESENT, TWO_COUNTRIES)
NAMES = {scenario.number: scenario.name for scenario in FRAUDS}

# Honest overlap of single transactions: furniture and holidays are bought by honest people.
BIG_PURCHASE_SHARE = 0.003
TRIP_SHARE = 0.12  # of customers who travel within a fortnight

# What becomes of a fraud: noticed by monitoring at once, reported by the cardholder after days (the
# chargeback), or never reported, which leaves its label wrong.
NOTICED_AT_ONCE = 0.60
NEVER_REPORTED = 0.03
MEAN_REPORT_DAYS = 8.0
EARLIEST_REPORT_DAYS = 1.0
LATEST_REPORT_DAYS = 60.0
# Honest transactions that are labelled as fraud: false alarms, and customers who dispute what they bought.
FALSE_ALARM_RATE = 0.0002

# Who reports a fraud: monitoring at once, or the cardholder, whose bank charges the payment back.
MONITORING, CHARGEBACK = "monitoring", "chargeback"
