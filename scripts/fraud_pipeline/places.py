"""Where people live and terminals stand, and what is bought there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Country (ISO 3166) and currency (ISO 4217), in the order of rhythm.COUNTRY_SHARES.
COUNTRIES = (("DE", "EUR"), ("FR", "EUR"), ("ES", "EUR"), ("GB", "GBP"), ("US", "USD"))


class City(NamedTuple):
    """Position in COUNTRIES, latitude and longitude in degrees, and its weight among its country's."""

    country: int
    lat: float
    lon: float
    weight: float


CITIES = (
    City(0, 52.52, 13.40, 0.30),  # Berlin
    City(0, 53.55, 9.99, 0.20),  # Hamburg
    City(0, 48.14, 11.58, 0.20),  # Munich
    City(0, 50.94, 6.96, 0.15),  # Cologne
    City(0, 50.11, 8.68, 0.15),  # Frankfurt
    City(1, 48.86, 2.35, 0.45),  # Paris
    City(1, 43.30, 5.37, 0.20),  # Marseille
    City(1, 45.76, 4.84, 0.20),  # Lyon
    City(1, 43.60, 1.44, 0.15),  # Toulouse
    City(2, 40.42, -3.70, 0.45),  # Madrid
    City(2, 41.39, 2.17, 0.35),  # Barcelona
    City(2, 39.47, -0.38, 0.20),  # Valencia
    City(3, 51.51, -0.13, 0.60),  # London
    City(3, 53.48, -2.24, 0.25),  # Manchester
    City(3, 55.95, -3.19, 0.15),  # Edinburgh
    City(4, 40.71, -74.01, 0.45),  # New York
    City(4, 41.88, -87.63, 0.30),  # Chicago
    City(4, 29.76, -95.37, 0.25),  # Houston
)


class Category(NamedTuple):
    """Merchant category code of ISO 18245, weight among terminals, and typical amount against the norm.

    Each of `cents` is how one of eight amounts ends; the others end in any.
    """

    mcc: int
    weight: float
    factor: float
    cents: tuple[int, ...] = ()


SHOPS = (
    Category(5411, 0.34, 1.1, (99, 49)),  # groceries
    Category(5812, 0.20, 0.9, (0, 0, 0, 50, 50, 90)),  # restaurants
    Category(5541, 0.12, 1.6, (0, 0, 0)),  # fuel
    Category(5651, 0.12, 1.7, (99, 99, 99, 95, 95, 0)),  # clothes
    Category(5912, 0.12, 0.6, (99, 95, 49)),  # pharmacies
    Category(5732, 0.06, 3.2, (99, 99, 99, 99, 0, 0)),  # electronics
    Category(5814, 0.04, 0.4, (99, 99, 49, 50)),  # fast food
)
MERCHANTS = (
    Category(5942, 0.25, 0.9, (99, 99, 95, 0, 50)),  # books
    Category(5651, 0.30, 1.7, (99, 99, 99, 95, 95, 0)),  # clothes
    Category(5732, 0.15, 3.0, (99, 99, 99, 99, 0, 0)),  # electronics
    Category(4722, 0.10, 4.0, (0, 0, 0, 0)),  # travel
    Category(5815, 0.20, 0.4, (99, 99, 99, 99, 99, 99, 49)),  # digital goods
)
CASH = Category(6011, 1.0, 2.5)
CATEGORIES = (*SHOPS, *MERCHANTS, CASH)
# By category and a number below 8: the cents in which an amount ends, or -1 for any.
CENTS = np.array([(*category.cents, *(-1,) * 8)[:8] for category in CATEGORIES], np.int8)

LATS = np.array([city.lat for city in CITIES])
LONS = np.array([city.lon for city in CITIES])
CITY_COUNTRY = np.array([city.country for city in CITIES], np.int8)
