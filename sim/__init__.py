"""Hardware described, mapped, timed and priced."""
