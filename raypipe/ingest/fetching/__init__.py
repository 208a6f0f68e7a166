"""Fetching pictures politely: the HTTP client, its address guard, hosts and their budgets. Imports no Ray."""
