"""What each verb takes, told once: type, default, help, choices and range of every setting. Light, so that help is."""
