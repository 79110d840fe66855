"""The process that holds base models with their adapters in memory and answers chats."""
