"""Fetches pictures: the HTTP client, its address guard, robots.txt, hosts and their budgets. Imports no Ray."""
