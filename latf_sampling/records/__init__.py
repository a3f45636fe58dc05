"""What a campaign's directory holds, read without changing anything."""
