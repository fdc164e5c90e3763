"""Tuning: schedules searched for by measuring them, and the database that keeps what was found."""
