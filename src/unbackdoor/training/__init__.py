"""The one fine-tuning loop and the losses; nothing else in the project trains."""
