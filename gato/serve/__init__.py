"""What talks to people and programs about a trained model: chat, the web page, the policy server, the card of a published model."""
