"""The one fine-tuning loop, its rates and its losses; nothing else trains, and no data are known here."""
