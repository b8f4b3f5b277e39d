"""A weather almanac of Seattle and San Francisco; `tasks` has the tasks."""
