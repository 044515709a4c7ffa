import torch.nn.functional as F
from torch import nn

from torch_impl.layers import Conv, Dense
from torch_impl.own_dropout import AxisDropout
from torch_impl.precision import dtypes


class Block(nn.Module):
    def __init__(self, width, after, dtypes):
        super().__init__()
        self.dense = Dense(width, width, dtypes)
        self.shares = AxisDropout(0.1, channels=-1)
        self.tokens = nn.Dropout(0.3)
        self.zz = after  # one of the model's, which every block calls

    def forward(self, x):
        heads = x.unflatten(2, (2, -1)).transpose(1, 2)
        shares = self.shares((heads @ heads.transpose(2, 3)).softmax(-1))
        x = x + self.tokens((shares @ heads).transpose(1, 2).flatten(2))
        return self.zz(x + self.tokens(F.relu(self.dense(x))))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        types, channels = dtypes(config), config.data.image_shape[2]
        self.stem = Conv(channels, 8, 3, types, stride=2, padding=1, bias=True)
        self.pixels = nn.Dropout(0.2)
        self.after = nn.Dropout(0.5)
        self.none = nn.Dropout(0.0)
        self.block = nn.ModuleList([Block(8, self.after, types) for _ in range(2)])
        dense = Dense(8, config.data.classes, types)
        self.head = nn.Sequential(nn.Dropout(0.4), dense)

    def forward(self, x):
        x = self.none(self.pixels(F.relu(self.stem(x))))
        x = x.flatten(2).transpose(1, 2)
        for block in self.block:
            x = block(x)
        return self.head(x.mean(1))


build_model = Model
