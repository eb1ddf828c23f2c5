"""Real facts about places from GeoNames: split, worded, and made into rows and claims."""
