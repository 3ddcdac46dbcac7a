"""What happens to secrets, told to those who subscribed: from applied commands to bytes on their connections."""
