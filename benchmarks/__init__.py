"""What raypipe claims of its speed and memory, one script a claim; results/ holds what they measured."""
